-- Count the workers of each class that are active and whose last heartbeat is within the lease.
SELECT kind::text AS kind, count(*) AS n FROM tracker.worker
WHERE state = 'active' AND seen_at > now() - make_interval(secs => tracker.setting('lease_seconds')::float8)
GROUP BY kind
