-- Return whether no more work can come to a queue: it and every queue before it have no live job; for download and
-- filter, no link that may be drawn waits in the pool or for its next try. Only the admin seeds jobs of the queues
-- after filter, so for these only their own jobs count.
CREATE FUNCTION tracker.is_idle(p_queue tracker.queue) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
    SELECT NOT EXISTS (SELECT FROM tracker.job WHERE state = 'ready' AND queue BETWEEN first.queue AND p_queue)
       AND NOT EXISTS (SELECT FROM tracker.job WHERE state = 'leased' AND queue BETWEEN first.queue AND p_queue)
       AND (p_queue NOT IN ('download', 'filter')
            OR NOT EXISTS (
                SELECT FROM unnest(enum_range(NULL::tracker.subset)) AS drawn (subset)
                WHERE tracker.setting('weight_' || subset) > 0
                  AND (EXISTS (SELECT FROM tracker.again WHERE again.subset = drawn.subset)
                       OR (SELECT sum(n) FROM tracker.tally
                           WHERE account = 'pool' AND tally.subset = drawn.subset) > 0)))
    FROM (SELECT CASE WHEN p_queue > 'filter' THEN p_queue ELSE 'extract' END AS queue) AS first
$$;
