-- Return the recent counts of the active download workers; older counts lose weight as in count_hosts.
SELECT worker_id::text AS worker,
       hosts_asked * kept AS asked, hosts_refused * kept AS refused
FROM tracker.worker,
     LATERAL (SELECT 0.5 ^ least(extract(epoch FROM now() - hosts_counted_at)::float8 / 3600, 1000)) AS faded (kept)
WHERE kind = 'download' AND state = 'active' AND hosts_asked > 0
ORDER BY worker_id
