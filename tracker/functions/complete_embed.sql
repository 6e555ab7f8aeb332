-- A part, a shard or a tar has been embedded by a second model: the folder is listed, and the job needs its pictures no
-- longer. Every sample is accounted for once: embedded, or lost (it cannot be decoded, or the model gave no finite row).
-- p_result: {"embedded": n, "lost": n, "bytes": n, "sha256": of the weights, "config_sha256": …}
CREATE FUNCTION tracker.complete_embed(p_job bigint, p_lease uuid, p_result jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    done tracker.job;
    embedded_n bigint := (p_result ->> 'embedded')::bigint;
    samples_n bigint := embedded_n + (p_result ->> 'lost')::bigint;
BEGIN
    IF NOT tracker.finish('embed', p_job, p_lease, p_result) THEN
        RETURN;
    END IF;
    SELECT * INTO done FROM tracker.job WHERE job_id = p_job;
    IF samples_n IS NULL OR least(embedded_n, samples_n - embedded_n) < 0
       OR samples_n <> coalesce((done.payload ->> 'samples')::bigint, samples_n) THEN
        RAISE EXCEPTION '% embedded and % lost do not account for the % samples of job %',
            embedded_n, samples_n - embedded_n, coalesce(done.payload ->> 'samples', 'uncounted'), p_job
            USING ERRCODE = 'SH003';
    END IF;
    IF NOT EXISTS (SELECT FROM tracker.embedding
                   WHERE run_id = done.run_id AND name = done.payload ->> 'embedding'
                     AND sha256 = p_result ->> 'sha256' AND config_sha256 = p_result ->> 'config_sha256') THEN
        RAISE EXCEPTION 'job % was embedded by another model than the others of embeddings %',
            p_job, done.payload ->> 'embedding' USING ERRCODE = 'SH002', HINT = 'give the worker the weights that the others have';
    END IF;
    PERFORM tracker.post(done.run_id, p_job, 'rows_in', 'embed', NULL, samples_n);
    PERFORM tracker.post(done.run_id, p_job, 'rows_out', 'embed', NULL, embedded_n);
    INSERT INTO tracker.manifest (kind, run_id, job_id, lease, subset, path, rows, samples, bytes)
    VALUES ('embeddings', done.run_id, p_job, p_lease, (done.payload ->> 'subset')::tracker.subset,
            tracker.output_path('embed', done.run_id, p_job, p_lease), embedded_n, samples_n,
            (p_result ->> 'bytes')::bigint);
    UPDATE tracker.manifest SET embeds = embeds - 1 WHERE path = done.payload ->> 'shard';
END
$$;
