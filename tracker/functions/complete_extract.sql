-- Turn a WAT file into a pack, with one file for each slot of the Bloom filter: list each file and add an ingest job
-- for it.
-- p_result: {"images": n, "candidates": n, "slots": [{"rows": n, "bytes": n}, …], …}; other keys are kept for the
-- admin.
CREATE FUNCTION tracker.complete_extract(p_job bigint, p_lease uuid, p_result jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    done tracker.job;
    part record;
    listed bigint;
BEGIN
    IF NOT tracker.finish('extract', p_job, p_lease, p_result,
                          (p_result ->> 'images')::bigint, (p_result ->> 'candidates')::bigint) THEN
        RETURN;
    END IF;
    SELECT * INTO done FROM tracker.job WHERE job_id = p_job;
    IF jsonb_array_length(p_result -> 'slots') IS DISTINCT FROM tracker.setting('bloom_slots')::int
       OR EXISTS (SELECT FROM jsonb_array_elements(p_result -> 'slots')
                  WHERE (value ->> 'rows')::bigint IS NULL OR (value ->> 'rows')::bigint < 0) THEN
        RAISE EXCEPTION 'the pack has % slots, the Bloom filter %',
            jsonb_array_length(p_result -> 'slots'), tracker.setting('bloom_slots') USING ERRCODE = 'SH003';
    END IF;
    FOR part IN
        SELECT (ordinality - 1)::int AS slot, (value ->> 'rows')::bigint AS n, (value ->> 'bytes')::bigint AS size
        FROM jsonb_array_elements(p_result -> 'slots') WITH ORDINALITY
        WHERE (value ->> 'rows')::bigint > 0
    LOOP
        INSERT INTO tracker.manifest (kind, run_id, job_id, lease, path, rows, bytes)
        VALUES ('pack', done.run_id, p_job, p_lease,
                tracker.output_path('extract', done.run_id, p_job, p_lease) || '.' || part.slot, part.n, part.size)
        RETURNING output_id INTO listed;
        INSERT INTO tracker.job (queue, run_id, slot, priority, payload)
        SELECT 'ingest', done.run_id, part.slot, done.priority,
               jsonb_build_object('pack', output_id, 'path', path, 'rows', rows)
        FROM tracker.manifest WHERE output_id = listed;
        PERFORM tracker.post(done.run_id, p_job, 'packed', NULL, NULL, part.n);
    END LOOP;
END
$$;
