-- Give these queues a row in control; a queue that a later version added has none until somebody sets something.
INSERT INTO tracker.control (queue) SELECT unnest(%(queues)s::tracker.queue[]) ON CONFLICT (queue) DO NOTHING
