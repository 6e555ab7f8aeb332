-- How many more jobs of a queue may be leased; NULL: the admin has set no limit. With a limit, claims that find room pass
-- one at a time until they commit, so that two never take the same place. What stale workers hold is not counted: it is
-- up for taking over, and a queue full of dead workers' leases would else stay closed for ever.
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
