-- Return how many more jobs of a queue may be leased, or NULL if the admin has set no limit. With a limit, claims run
-- one after the other until they commit, so that two claims together cannot exceed it. Leases of stale workers are not
-- counted: they can be taken over, and would otherwise keep the queue closed for ever.
CREATE FUNCTION tracker.leases_left(p_queue tracker.queue) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    most int;
    stale uuid[];
    leased int;
BEGIN
    SELECT max_leased INTO most FROM tracker.control WHERE queue = p_queue;
    IF most IS NULL THEN
        RETURN NULL;
    END IF;
    stale := ARRAY(SELECT tracker.stale_workers(p_queue));
    SELECT count(*) INTO leased FROM tracker.job
    WHERE state = 'leased' AND queue = p_queue AND worker_id <> ALL (stale);
    IF leased < most THEN
        SELECT max_leased INTO most FROM tracker.control WHERE queue = p_queue FOR UPDATE;
        SELECT count(*) INTO leased FROM tracker.job
        WHERE state = 'leased' AND queue = p_queue AND worker_id <> ALL (stale);
    END IF;
    RETURN greatest(most - leased, 0);
END
$$;
