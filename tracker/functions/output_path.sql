-- Return the stem of a job's output in the store: the run's folder, the queue's folder, then job and lease, so that the
-- outputs of two attempts never collide.
CREATE FUNCTION tracker.output_path(p_queue tracker.queue, p_run_id int, p_job bigint, p_lease uuid)
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
    SELECT concat_ws('/', run.name, place.folder,
                     (SELECT string_agg(job.payload ->> named.key, '/' ORDER BY named.at)
                      FROM unnest(place.payload_keys) WITH ORDINALITY AS named (key, at), tracker.job
                      WHERE job.job_id = p_job),
                     format('%s-%s', lpad(p_job::text, 10, '0'), p_lease))
    FROM tracker.run, tracker.queue_folder AS place
    WHERE run.run_id = p_run_id AND place.queue = p_queue::text
$$;
