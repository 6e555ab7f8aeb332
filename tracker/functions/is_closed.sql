-- Whether a queue gives nothing out: paused by the admin, at its limit, or held by a watermark. Ingest is held from the pool's high
-- mark until what waits has fallen to the resume mark.
CREATE FUNCTION tracker.is_closed(p_queue tracker.queue) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    now_closed boolean;
    waiting numeric;
BEGIN
    IF p_queue = 'ingest' THEN
        SELECT coalesce(sum(n), 0) INTO waiting FROM tracker.tally WHERE account = 'pool';
        UPDATE tracker.control
        SET held = waiting >= tracker.setting(CASE WHEN held THEN 'pool_resume' ELSE 'pool_high' END)
        WHERE queue = 'ingest'
          AND held <> (waiting >= tracker.setting(CASE WHEN held THEN 'pool_resume' ELSE 'pool_high' END));
    END IF;
    SELECT paused OR held INTO now_closed FROM tracker.control WHERE queue = p_queue;
    RETURN now_closed OR coalesce(tracker.room(p_queue) < 1, false);
END
$$;
