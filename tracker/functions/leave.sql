-- Unregister a worker. What it still holds is ready again at once, without using up an attempt.
CREATE FUNCTION tracker.leave(p_worker uuid) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    held record;
    released int := 0;
BEGIN
    -- Lock the row as a claim does: so either this call sees a concurrent claim, or the claim sees that its worker is
    -- gone.
    PERFORM FROM tracker.worker WHERE worker_id = p_worker FOR NO KEY UPDATE;
    PERFORM tracker.require_worker(p_worker);
    FOR held IN SELECT job_id, lease FROM tracker.job WHERE worker_id = p_worker AND state = 'leased' ORDER BY job_id LOOP
        PERFORM tracker.release(held.job_id, held.lease);
        released := released + 1;
    END LOOP;
    UPDATE tracker.bloom SET holder = NULL WHERE holder = p_worker;
    UPDATE tracker.worker SET state = 'gone', seen_at = now() WHERE worker_id = p_worker;
    RETURN released;
END
$$;
