-- Complete a unit of a build, and begin the next step if it was the last one of its step. `finish` returns true once
-- for each job, and the build's row is locked while its units are counted, so a step begins exactly once. The plan is
-- the one of the seeded build; a result cannot change it. p_result: {"rows_in": n, "rows_out": n, "files": [{"path": in
-- the release's folder, "rows": n, "bytes": n}, …]}
CREATE FUNCTION tracker.complete_unit(p_queue tracker.queue, p_job bigint, p_lease uuid, p_result jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    done tracker.job;
    build tracker.build;
    rows_in_n bigint := (p_result ->> 'rows_in')::bigint;
    rows_out_n bigint := (p_result ->> 'rows_out')::bigint;
BEGIN
    IF NOT tracker.finish(p_queue, p_job, p_lease, p_result, rows_in_n, rows_out_n) THEN
        RETURN;
    END IF;
    SELECT * INTO STRICT done FROM tracker.job WHERE job_id = p_job;
    IF num_nulls(rows_in_n, rows_out_n) > 0 OR least(rows_in_n, rows_out_n) < 0 THEN
        RAISE EXCEPTION 'the result of job % does not say how many rows the unit read and wrote', p_job
            USING ERRCODE = 'SH003';
    END IF;
    PERFORM tracker.list_files(p_queue, done, p_result -> 'files');
    UPDATE tracker.build SET units_left = units_left - 1
    WHERE build_id = (done.payload ->> 'build')::int
    RETURNING * INTO STRICT build;
    IF build.units_left = 0 AND build.abandoned_at IS NULL THEN
        PERFORM tracker.begin_step(build.build_id, done.priority);
    END IF;
END
$$;
