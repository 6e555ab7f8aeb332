-- Return for each queue its live jobs, and the finished work according to the ledger. A queue without a row in control
-- is open.
SELECT known.queue::text AS queue, coalesce(control.paused, false) AS paused, coalesce(control.held, false) AS held,
       control.max_leased,
       coalesce(live.ready, 0) AS ready, coalesce(live.leased, 0) AS leased, coalesce(live.dead, 0) AS dead,
       live.oldest_ready_seconds,
       coalesce(sum(tally.n) FILTER (WHERE tally.account = 'jobs'), 0)::bigint AS done,
       coalesce(sum(tally.n) FILTER (WHERE tally.account = 'rows_in'), 0)::bigint AS rows_in,
       coalesce(sum(tally.n) FILTER (WHERE tally.account = 'rows_out'), 0)::bigint AS rows_out,
       coalesce(sum(tally.n) FILTER (WHERE tally.account = 'milliseconds'), 0)::float8 / 1000 AS seconds
FROM unnest(enum_range(NULL::tracker.queue)) AS known (queue)
LEFT JOIN tracker.control USING (queue)
LEFT JOIN (
    SELECT queue, count(*) FILTER (WHERE state = 'ready') AS ready, count(*) FILTER (WHERE state = 'leased') AS leased,
           count(*) FILTER (WHERE state = 'dead') AS dead,
           extract(epoch FROM now() - min(ready_at) FILTER (WHERE state = 'ready'))::float8 AS oldest_ready_seconds
    FROM (
        -- each uses a partial index; done jobs are never read
        SELECT queue, state, ready_at FROM tracker.job WHERE state = 'ready'
        UNION ALL SELECT queue, state, ready_at FROM tracker.job WHERE state = 'leased'
        UNION ALL SELECT queue, state, ready_at FROM tracker.job WHERE state = 'dead'
    ) AS unfinished
    GROUP BY queue
) AS live USING (queue)
LEFT JOIN tracker.tally ON tally.label = known.queue::text
    AND tally.account IN ('jobs', 'rows_in', 'rows_out', 'milliseconds')
GROUP BY known.queue, control.paused, control.held, control.max_leased, live.ready, live.leased, live.dead, live.oldest_ready_seconds
ORDER BY known.queue
