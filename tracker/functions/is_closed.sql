-- Return whether a queue hands out no jobs: paused by the admin, at its limit, or held by a watermark. A queue is held
-- from the high mark on, until all piles of its finished work have fallen to their resume marks. A queue without a row
-- in tracker.control is open.
CREATE FUNCTION tracker.is_closed(p_queue tracker.queue) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    now_closed boolean;
    is_full boolean;
    is_above boolean;
BEGIN
    SELECT coalesce(bool_or(amount >= high), false), coalesce(bool_or(amount > resume), false)
    INTO is_full, is_above FROM tracker.watermarks(p_queue);
    UPDATE tracker.control SET held = CASE WHEN held THEN is_above ELSE is_full END
    WHERE queue = p_queue AND held <> CASE WHEN held THEN is_above ELSE is_full END;
    SELECT paused OR held INTO now_closed FROM tracker.control WHERE queue = p_queue;
    RETURN coalesce(now_closed, false) OR coalesce(tracker.leases_left(p_queue) < 1, false);
END
$$;
