-- Add an ingest job for each piece of a link list that the run does not have, assigned to the slots in turn.
INSERT INTO tracker.job (queue, run_id, slot, payload)
SELECT 'ingest', %(run_id)s, piece.at %% tracker.setting('bloom_slots')::int, piece.value
FROM jsonb_array_elements(%(pieces)s::jsonb) WITH ORDINALITY AS piece (value, at)
ON CONFLICT (run_id, (payload ->> 'list'), (payload ->> 'first_group'))
    WHERE queue = 'ingest' AND payload ->> 'list' IS NOT NULL DO NOTHING
