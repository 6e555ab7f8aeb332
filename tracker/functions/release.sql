-- Return a job unfinished. It is ready at once, and no attempt is used up.
CREATE FUNCTION tracker.release(p_job bigint, p_lease uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
BEGIN
    IF NOT tracker.lock_lease(p_job, p_lease) THEN
        RETURN;
    END IF;
    UPDATE tracker.job
    SET state = 'ready', attempt = attempt - 1, worker_id = NULL, lease = NULL, leased_at = NULL
    WHERE job_id = p_job;
    UPDATE tracker.lease SET ending = 'released', ended_at = now() WHERE lease = p_lease;
END
$$;
