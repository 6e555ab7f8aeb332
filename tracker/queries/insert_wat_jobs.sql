-- Add an extract job for each WAT file that the run does not have.
INSERT INTO tracker.job (queue, run_id, payload)
SELECT 'extract', %(run_id)s, jsonb_build_object('wat', wat) FROM unnest(%(wats)s::text[]) AS wat
ON CONFLICT (run_id, (payload ->> 'wat')) WHERE queue = 'extract' DO NOTHING
