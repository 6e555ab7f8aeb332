-- The workers that have not left, with what they hold and whether their leases may be taken over.
SELECT worker.worker_id::text AS worker, worker.kind::text AS kind, worker.state::text AS state, worker.host, worker.pid,
       worker.version, worker.machine, worker.progress,
       extract(epoch FROM now() - worker.seen_at)::float8 AS seen_seconds_ago,
       extract(epoch FROM now() - worker.progressed_at)::float8 AS progressed_seconds_ago,
       worker.seen_at >= now() - make_interval(secs => tracker.setting('lease_seconds')::float8) AS alive,
       (SELECT count(*) FROM tracker.job WHERE job.worker_id = worker.worker_id AND job.state = 'leased') AS leases
FROM tracker.worker
WHERE worker.state <> 'gone' AND worker.seen_at > now() - interval '1 day'
ORDER BY worker.kind, worker.host, worker.pid
