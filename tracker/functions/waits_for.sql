-- Return why a queue hands out no jobs, for the log of an idle worker: it is closed by an admin or a mark (`closed`),
-- or it waits for its own failed jobs, for jobs of the stages before it, or (download and filter) for links that get
-- another try. The next try is that of a job or of a link.
CREATE FUNCTION tracker.waits_for(p_queue tracker.queue)
RETURNS TABLE (closed boolean, retries bigint, jobs_before bigint, again bigint, next_try_seconds float8)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
    SELECT coalesce((SELECT paused OR held FROM tracker.control WHERE queue = p_queue), false),
           own.n,
           CASE WHEN p_queue > 'filter' THEN 0
                ELSE (SELECT count(*) FROM tracker.job WHERE state = 'ready' AND queue < p_queue)
                     + (SELECT count(*) FROM tracker.job WHERE state = 'leased' AND queue < p_queue) END,
           links.n,
           extract(epoch FROM least(own.next_at, links.next_at) - now())::float8
    FROM (SELECT count(*) AS n, min(ready_at) AS next_at FROM tracker.job
          WHERE state = 'ready' AND queue = p_queue AND ready_at > now()) AS own,
         (SELECT coalesce(sum(n), 0)::bigint AS n,
                 (SELECT min(due_at) FROM tracker.again WHERE p_queue IN ('download', 'filter')) AS next_at
          FROM tracker.tally WHERE account = 'again' AND p_queue IN ('download', 'filter')) AS links
$$;
