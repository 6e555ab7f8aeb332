-- Record that the worker is alive and its progress; return whether it should continue or drain. Updates one row and no
-- index.
CREATE FUNCTION tracker.heartbeat(p_worker uuid, p_progress bigint) RETURNS tracker.worker_state
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
BEGIN
    PERFORM tracker.require_worker(p_worker);
    UPDATE tracker.worker
    SET seen_at = now(),
        progress = p_progress,
        progressed_at = CASE WHEN progress = p_progress THEN progressed_at ELSE now() END
    WHERE worker_id = p_worker;
    RETURN (SELECT state FROM tracker.worker WHERE worker_id = p_worker);
END
$$;
