-- Lock a leased job until the transaction ends, and return true. Return false if it was completed under the same lease
-- (the reply was lost). Raise if the lease was taken over.
CREATE FUNCTION tracker.lock_lease(p_job bigint, p_lease uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    held tracker.job;
BEGIN
    SELECT * INTO held FROM tracker.job WHERE job_id = p_job AND lease = p_lease AND state IN ('leased', 'done') FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'job % is no longer held under lease %', p_job, p_lease
            USING ERRCODE = 'SH001', HINT = 'drop the work: another worker has it';
    END IF;
    PERFORM tracker.require_class(held.queue);
    IF held.state = 'leased' THEN
        PERFORM tracker.require_worker(held.worker_id);
    END IF;
    RETURN held.state = 'leased';
END
$$;
