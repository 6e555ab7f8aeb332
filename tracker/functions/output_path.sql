-- The stem under which a job's output lies in the store: job and lease are in the name, so two tries never collide.
-- Embeddings lie by the name of their model.
CREATE FUNCTION tracker.output_path(p_queue tracker.queue, p_run_id int, p_job bigint, p_lease uuid)
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
    SELECT format(
        '%s/%s/%s-%s', name,
        CASE p_queue WHEN 'extract' THEN 'packs' WHEN 'ingest' THEN 'packs' WHEN 'download' THEN 'shards' WHEN 'filter' THEN 'parts'
                     WHEN 'embed' THEN 'embeddings/' || (SELECT payload ->> 'embedding' FROM tracker.job WHERE job_id = p_job)
                     ELSE 'other' END,
        lpad(p_job::text, 10, '0'), p_lease)
    FROM tracker.run WHERE run_id = p_run_id
$$;
