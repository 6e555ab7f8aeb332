-- Return the workers that have not left: the jobs that they hold, and their work in the last hour. A worker is stuck if
-- it sends heartbeats but has made no progress for three times as long as 95 % of its kind's jobs take. This time is at
-- least a lease, because heartbeats report progress only a few times per lease, and at most stall_seconds, after which
-- its jobs may be taken over.
WITH recent AS MATERIALIZED (
    SELECT lease.worker_id, worker.kind, lease.granted_at, lease.ended_at, lease.ending
    FROM tracker.lease JOIN tracker.worker USING (worker_id)
    WHERE lease.granted_at > now() - interval '6 hours'
), usual AS (
    SELECT kind, percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM ended_at - granted_at)) AS p95_seconds
    FROM recent WHERE ending = 'completed' GROUP BY kind
), hour AS (
    SELECT worker_id, count(*) FILTER (WHERE ending = 'completed') AS completed,
           count(*) FILTER (WHERE ending IN ('failed', 'taken_over')) AS failed
    FROM recent WHERE ended_at > now() - interval '1 hour' GROUP BY worker_id
), held AS (
    SELECT worker_id, count(*) AS leases FROM tracker.job WHERE state = 'leased' GROUP BY worker_id
), patience AS (
    SELECT tracker.setting('lease_seconds')::float8 AS lease, tracker.setting('stall_seconds')::float8 AS stall
)
SELECT worker.worker_id::text AS worker, worker.kind::text AS kind, worker.state::text AS state, worker.host, worker.pid,
       worker.machine, worker.version, coalesce(held.leases, 0) AS leases, worker.progress,
       -- the heartbeat of a revoked machine has the time minus infinity, which PostgreSQL 15 cannot subtract
       CASE WHEN isfinite(worker.seen_at) THEN extract(epoch FROM now() - worker.seen_at) END::float8
           AS seen_seconds_ago,
       extract(epoch FROM now() - worker.progressed_at)::float8 AS progressed_seconds_ago,
       coalesce(3600 * hour.completed
                / extract(epoch FROM least(interval '1 hour', greatest(interval '1 minute', now() - worker.registered_at))),
                0)::float8 AS jobs_per_hour,
       coalesce(hour.failed, 0) AS failures_last_hour, usual.p95_seconds,
       worker.burnt_at, worker.burnt_reason, worker.hosts_asked, worker.hosts_refused,
       seen.alive,
       seen.alive AND held.leases IS NOT NULL AND worker.progressed_at < now() - make_interval(
           secs => least(patience.stall, greatest(patience.lease, 3 * usual.p95_seconds))) AS stuck
FROM tracker.worker
CROSS JOIN patience
CROSS JOIN LATERAL (SELECT worker.seen_at >= now() - make_interval(secs => patience.lease) AS alive) AS seen
LEFT JOIN held USING (worker_id)
LEFT JOIN hour USING (worker_id)
LEFT JOIN usual ON usual.kind = worker.kind
WHERE worker.state <> 'gone'
ORDER BY worker.kind, worker.host, worker.pid
