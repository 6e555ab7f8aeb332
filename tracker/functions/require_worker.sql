-- Return the worker's row. Raise if the login may not speak for the worker, or if its machine is revoked.
CREATE FUNCTION tracker.require_worker(p_worker uuid) RETURNS tracker.worker
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    known tracker.worker;
BEGIN
    SELECT * INTO known FROM tracker.worker WHERE worker_id = p_worker AND state <> 'gone';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'worker % is not registered', p_worker
            USING ERRCODE = 'SH003', HINT = 'start the worker again: it was evicted or has left';
    END IF;
    PERFORM tracker.require_class(known.kind);
    IF EXISTS (SELECT FROM tracker.machine WHERE name = known.machine AND revoked_at IS NOT NULL) THEN
        RAISE EXCEPTION 'machine % is revoked', known.machine USING ERRCODE = 'SH003', HINT = 'enroll it again under another name';
    END IF;
    RETURN known;
END
$$;
