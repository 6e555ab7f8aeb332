-- Turn a shard into a part. Every sample is accounted for once: kept, or dropped for a reason. From now on the run's
-- setting decides how long the shard's pictures are kept. p_result: {"kept": n, "dropped": {reason: n}, "bytes": n,
-- "tar_bytes": n if the part has its own tar of kept pictures}
CREATE FUNCTION tracker.complete_filter(p_job bigint, p_lease uuid, p_result jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    done tracker.job;
    samples_n bigint;
    kept_n bigint := (p_result ->> 'kept')::bigint;
    tar_n bigint := (p_result ->> 'tar_bytes')::bigint;
    dropped_n bigint;
    of_subset tracker.subset;
BEGIN
    SELECT coalesce(sum(value::bigint), 0) INTO dropped_n FROM jsonb_each_text(p_result -> 'dropped');
    IF NOT tracker.finish('filter', p_job, p_lease, p_result, kept_n + dropped_n, kept_n) THEN
        RETURN;
    END IF;
    SELECT * INTO done FROM tracker.job WHERE job_id = p_job;
    samples_n := (done.payload ->> 'samples')::bigint;
    of_subset := (done.payload ->> 'subset')::tracker.subset;
    IF kept_n IS NULL OR kept_n < 0 OR kept_n + dropped_n <> samples_n
       OR EXISTS (SELECT FROM jsonb_each_text(p_result -> 'dropped') WHERE value::bigint < 0) THEN
        RAISE EXCEPTION '% kept and % dropped do not account for the % samples of job %',
            kept_n, dropped_n, samples_n, p_job USING ERRCODE = 'SH003';
    END IF;
    PERFORM tracker.post(done.run_id, p_job, 'filtered', 'kept', of_subset, kept_n);
    INSERT INTO tracker.ledger (run_id, job_id, account, label, subset, n)
    SELECT done.run_id, p_job, 'filtered', left(key, 60), of_subset, value::bigint
    FROM jsonb_each_text(p_result -> 'dropped') WHERE value::bigint <> 0;
    INSERT INTO tracker.manifest (kind, run_id, job_id, lease, subset, path, rows, samples, bytes, tar_bytes)
    VALUES ('part', done.run_id, p_job, p_lease, of_subset,
            tracker.output_path('filter', done.run_id, p_job, p_lease), kept_n, samples_n,
            (p_result ->> 'bytes')::bigint, coalesce(tar_n, 0));
    UPDATE tracker.manifest SET filtered_at = now(), kept_apart = kept_n = 0 OR tar_n IS NOT NULL
    WHERE path = done.payload ->> 'shard';
END
$$;
