-- Return a leased job as its worker gets it, with the run's recipe and the output's stem. A filter worker also gets
-- which pictures of the shard to keep and when they were fetched (the second at which the shard's job completed, in
-- Unix time). An embed worker gets its model, with the checksums if they are settled. The worker of a build's unit gets
-- the build's options and plan.
CREATE FUNCTION tracker.claimed_job(p_job tracker.job) RETURNS tracker.claimed
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
    SELECT (p_job.job_id, p_job.lease, p_job.queue, p_job.attempt, p_job.run_id, run.name, run.recipe,
            CASE WHEN p_job.queue = 'filter' THEN p_job.payload || jsonb_build_object(
                     'keep_shards', run.keep_shards,
                     'fetched', (SELECT floor(extract(epoch FROM created_at))::bigint
                                 FROM tracker.manifest WHERE path = p_job.payload ->> 'shard'))
                 WHEN p_job.queue = 'embed' THEN p_job.payload || (
                     SELECT jsonb_build_object('model', model, 'pretrained', pretrained, 'sha256', sha256,
                                               'config_sha256', config_sha256)
                     FROM tracker.embedding
                     WHERE run_id = p_job.run_id AND name = p_job.payload ->> 'embedding')
                 WHEN p_job.payload ? 'build' THEN p_job.payload || (
                     SELECT jsonb_build_object('options', options, 'plan', plan, 'version', version)
                     FROM tracker.build WHERE build_id = (p_job.payload ->> 'build')::int)
                 ELSE p_job.payload END,
            tracker.output_path(p_job.queue, p_job.run_id, p_job.job_id, p_job.lease))::tracker.claimed
    FROM tracker.run WHERE run_id = p_job.run_id
$$;
