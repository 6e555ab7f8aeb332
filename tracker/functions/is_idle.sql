-- Whether nothing can come to a queue any more: it and every queue before it hold no live job, and for download and
-- filter nothing that may be drawn waits in the pool or for its next try. Embed jobs are seeded by the admin alone, so
-- their queue is idle by itself.
CREATE FUNCTION tracker.is_idle(p_queue tracker.queue) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
    SELECT NOT EXISTS (SELECT FROM tracker.job WHERE state = 'ready' AND queue BETWEEN first.queue AND p_queue)
       AND NOT EXISTS (SELECT FROM tracker.job WHERE state = 'leased' AND queue BETWEEN first.queue AND p_queue)
       AND (p_queue < 'download' OR p_queue = 'embed'
            OR NOT EXISTS (
                SELECT FROM unnest(enum_range(NULL::tracker.subset)) AS drawn (subset)
                WHERE tracker.setting('weight_' || subset) > 0
                  AND (EXISTS (SELECT FROM tracker.again WHERE again.subset = drawn.subset)
                       OR (SELECT sum(n) FROM tracker.tally
                           WHERE account = 'pool' AND tally.subset = drawn.subset) > 0)))
    FROM (SELECT CASE p_queue WHEN 'embed' THEN p_queue ELSE 'extract' END AS queue) AS first
$$;
