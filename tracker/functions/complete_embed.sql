-- Record that a part, shard or tar was embedded by a second model: list its folder, and stop holding the shard's
-- pictures. Every sample is accounted for once: embedded, or lost for a reason. p_result: {"embedded": n, "lost": n,
-- "reasons": {reason: n}, "bytes": n, "sha256": of the weights, "config_sha256": …}
CREATE FUNCTION tracker.complete_embed(p_job bigint, p_lease uuid, p_result jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    done tracker.job;
    embedded_n bigint := (p_result ->> 'embedded')::bigint;
    lost_n bigint := (p_result ->> 'lost')::bigint;
    samples_n bigint := embedded_n + lost_n;
    reasons_n bigint;
BEGIN
    IF NOT tracker.finish('embed', p_job, p_lease, p_result, samples_n, embedded_n) THEN
        RETURN;
    END IF;
    SELECT * INTO done FROM tracker.job WHERE job_id = p_job;
    SELECT coalesce(sum(value::bigint), 0) INTO reasons_n FROM jsonb_each_text(p_result -> 'reasons');
    IF samples_n IS NULL OR least(embedded_n, lost_n) < 0 OR reasons_n <> lost_n
       OR EXISTS (SELECT FROM jsonb_each_text(p_result -> 'reasons') WHERE value::bigint < 0)
       OR samples_n <> coalesce((done.payload ->> 'samples')::bigint, samples_n) THEN
        RAISE EXCEPTION '% embedded and % lost (% of them for a reason) do not account for the % samples of job %',
            embedded_n, lost_n, reasons_n, coalesce(done.payload ->> 'samples', 'uncounted'), p_job
            USING ERRCODE = 'SH003';
    END IF;
    IF NOT EXISTS (SELECT FROM tracker.embedding
                   WHERE run_id = done.run_id AND name = done.payload ->> 'embedding'
                     AND sha256 = p_result ->> 'sha256' AND config_sha256 = p_result ->> 'config_sha256') THEN
        RAISE EXCEPTION 'job % was embedded by another model than the others of embeddings %',
            p_job, done.payload ->> 'embedding' USING ERRCODE = 'SH002', HINT = 'give the worker the weights that the others have';
    END IF;
    INSERT INTO tracker.manifest (kind, run_id, job_id, lease, subset, path, rows, samples, bytes)
    VALUES ('embeddings', done.run_id, p_job, p_lease, (done.payload ->> 'subset')::tracker.subset,
            tracker.output_path('embed', done.run_id, p_job, p_lease), embedded_n, samples_n,
            (p_result ->> 'bytes')::bigint);
    UPDATE tracker.manifest SET embeds = embeds - 1 WHERE path = done.payload ->> 'shard';
END
$$;
