-- Add a job to a queue for each payload; a payload is left out if the run already has its `unit` in this queue.
INSERT INTO tracker.job (queue, run_id, payload)
SELECT %(queue)s::tracker.queue, %(run_id)s, payload FROM jsonb_array_elements(%(payloads)s::jsonb) AS payload
ON CONFLICT (run_id, queue, (payload ->> 'unit')) WHERE payload ->> 'unit' IS NOT NULL DO NOTHING
