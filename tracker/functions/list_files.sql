-- List the files that a unit of a build wrote. Their names are fixed, so a file that is built again replaces its row.
-- All paths are in the queue's folder of the release, whatever the worker reports. p_files: [{"path": in the release's
-- folder, "rows": n, "bytes": n}, …]
CREATE FUNCTION tracker.list_files(p_queue tracker.queue, p_job tracker.job, p_files jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    place text := (SELECT folder FROM tracker.queue_folder WHERE queue = p_queue::text);
    wrong text;
BEGIN
    SELECT value::text INTO wrong
    FROM jsonb_array_elements(CASE jsonb_typeof(p_files) WHEN 'array' THEN p_files ELSE jsonb_build_array(p_files) END)
    WHERE NOT coalesce(
        starts_with(value ->> 'path', place || '/') AND length(value ->> 'path') <= 500
        AND value ->> 'path' !~ '(^|/)(\.{0,2})(/|$)'
        AND (value ->> 'rows')::bigint >= 0 AND (value ->> 'bytes')::bigint >= 0, false)
    LIMIT 1;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'job % lists the file %: a file is a path in %/, with its rows and bytes', p_job.job_id,
            left(wrong, 200), place USING ERRCODE = 'SH003';
    END IF;
    INSERT INTO tracker.manifest (kind, run_id, job_id, lease, path, rows, bytes)
    SELECT p_queue::text::tracker.output_kind, p_job.run_id, p_job.job_id, p_job.lease,
           run.name || '/' || (value ->> 'path'), (value ->> 'rows')::bigint, (value ->> 'bytes')::bigint
    FROM jsonb_array_elements(p_files), tracker.run
    WHERE run.run_id = p_job.run_id
    ORDER BY value ->> 'path'
    ON CONFLICT (path) DO UPDATE
    SET job_id = excluded.job_id, lease = excluded.lease, rows = excluded.rows, bytes = excluded.bytes, created_at = now();
END
$$;
