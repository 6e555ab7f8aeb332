-- Return the size of the pool, and how fast it has emptied since the oldest note of the last hour. Without a note that
-- is at least a minute old there is no rate.
WITH now_at AS (
    SELECT coalesce(sum(n) FILTER (WHERE account = 'pool'), 0)::bigint AS pool,
           coalesce(sum(n) FILTER (WHERE account = 'in'), 0)::bigint AS came_in
    FROM tracker.tally WHERE account IN ('pool', 'in')
), before AS (
    SELECT came_in, drawn, extract(epoch FROM clock_timestamp() - measured_at) / 3600 AS hours
    FROM tracker.pace
    WHERE measured_at BETWEEN now() - interval '1 hour' AND now() - interval '1 minute'
    ORDER BY measured_at LIMIT 1
)
SELECT now_at.pool, now_at.came_in, tracker.setting('pool_low')::bigint AS pool_low,
       tracker.setting('pool_low_hours')::float8 AS pool_low_hours,
       (greatest(now_at.came_in - now_at.pool - before.drawn, 0) / before.hours)::float8 AS drawn_per_hour,
       (greatest(now_at.came_in - before.came_in, 0) / before.hours)::float8 AS came_in_per_hour,
       NOT tracker.is_idle('ingest') AS more_can_come
FROM now_at LEFT JOIN before ON true
