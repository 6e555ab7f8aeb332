-- Settle the model of an embed job: the first worker that has loaded it records the checksums, and a worker that has
-- loaded another model is refused. So all embeddings with the same name in a run come from the same model.
CREATE FUNCTION tracker.settle_model(
    p_job bigint, p_lease uuid, p_model text, p_pretrained text, p_sha256 text, p_config_sha256 text
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    asking tracker.job;
BEGIN
    PERFORM tracker.lock_lease(p_job, p_lease);
    SELECT * INTO asking FROM tracker.job WHERE job_id = p_job;
    UPDATE tracker.embedding SET sha256 = p_sha256, config_sha256 = p_config_sha256
    WHERE run_id = asking.run_id AND name = asking.payload ->> 'embedding' AND sha256 IS NULL
      AND model = p_model AND pretrained IS NOT DISTINCT FROM p_pretrained;
    IF NOT EXISTS (SELECT FROM tracker.embedding
                   WHERE run_id = asking.run_id AND name = asking.payload ->> 'embedding' AND model = p_model
                     AND pretrained IS NOT DISTINCT FROM p_pretrained
                     AND sha256 = p_sha256 AND config_sha256 = p_config_sha256) THEN
        RAISE EXCEPTION 'the model of embeddings % is not the one that this worker has loaded', asking.payload ->> 'embedding'
            USING ERRCODE = 'SH002', HINT = 'give the worker the weights that the others have, or embed under another --name';
    END IF;
END
$$;
