-- Return every lease of a job.
SELECT lease.granted_at, lease.ended_at, lease.ending::text AS ending, lease.lease::text AS lease,
       worker.worker_id::text AS worker, worker.host, worker.pid, worker.version
FROM tracker.lease JOIN tracker.worker USING (worker_id)
WHERE lease.job_id = %(job)s
ORDER BY lease.granted_at, lease.lease
