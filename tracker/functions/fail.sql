-- Record that a try failed. The job is ready again after a pause that doubles with each attempt, or dead after the last
-- attempt.
CREATE FUNCTION tracker.fail(p_job bigint, p_lease uuid, p_error text) RETURNS tracker.job_state
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    failed tracker.job;
    last_try boolean;
BEGIN
    IF NOT tracker.lock_lease(p_job, p_lease) THEN
        RETURN 'done';
    END IF;
    SELECT * INTO failed FROM tracker.job WHERE job_id = p_job;
    last_try := failed.attempt >= tracker.setting('max_attempts');
    UPDATE tracker.job
    SET state = (CASE WHEN last_try THEN 'dead' ELSE 'ready' END)::tracker.job_state,
        finished_at = CASE WHEN last_try THEN now() END,
        ready_at = now() + make_interval(secs => (tracker.setting('retry_seconds') * 2 ^ (attempt - 1))::float8),
        error = left(p_error, 1000), worker_id = NULL, lease = NULL, leased_at = NULL
    WHERE job_id = p_job
    RETURNING * INTO failed;
    UPDATE tracker.lease SET ending = 'failed', ended_at = now() WHERE lease = p_lease;
    RETURN failed.state;
END
$$;
