-- Add a row to control for each of these queues; a queue that a later version added has none until an admin changes
-- something.
INSERT INTO tracker.control (queue) SELECT unnest(%(queues)s::tracker.queue[]) ON CONFLICT (queue) DO NOTHING
