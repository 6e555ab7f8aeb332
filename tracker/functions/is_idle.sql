-- Whether nothing can come to a queue any more: it and every queue before it hold no live job, and for download and
-- filter nothing waits in the pool or for its next try.
CREATE FUNCTION tracker.is_idle(p_queue tracker.queue) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
    SELECT NOT EXISTS (SELECT FROM tracker.job WHERE state = 'ready' AND queue <= p_queue)
       AND NOT EXISTS (SELECT FROM tracker.job WHERE state = 'leased' AND queue <= p_queue)
       AND (p_queue < 'download'
            OR (NOT EXISTS (SELECT FROM tracker.again)
                AND (SELECT coalesce(sum(n), 0) FROM tracker.tally WHERE account = 'pool') = 0))
$$;
