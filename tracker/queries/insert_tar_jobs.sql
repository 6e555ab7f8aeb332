-- Add an embed job for each tar of a folder that does not have one for this model.
INSERT INTO tracker.job (queue, run_id, payload)
SELECT 'embed', %(run_id)s,
       jsonb_build_object('embedding', %(name)s::text, 'kind', 'tar', 'source', tar ->> 'source',
                          'folder', %(folder)s::text, 'path', tar ->> 'path')
FROM jsonb_array_elements(%(tars)s::jsonb) AS tar
ON CONFLICT (run_id, (payload ->> 'embedding'), (payload ->> 'source')) WHERE payload ->> 'embedding' IS NOT NULL
    DO NOTHING
