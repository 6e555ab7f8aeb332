-- Return the chosen jobs, the latest first; null, or no ids, chooses all.
SELECT job.job_id, job.queue::text AS queue, job.state::text AS state, run.name AS run, job.attempt, job.priority,
       job.created_at, job.ready_at, job.finished_at, worker.host, job.error
FROM tracker.job
JOIN tracker.run USING (run_id)
LEFT JOIN tracker.worker USING (worker_id)
WHERE (cardinality(%(ids)s::bigint[]) = 0 OR job.job_id = ANY (%(ids)s))
  AND (%(queue)s::tracker.queue IS NULL OR job.queue = %(queue)s::tracker.queue)
  AND (cardinality(%(states)s::tracker.job_state[]) = 0 OR job.state = ANY (%(states)s::tracker.job_state[]))
  AND (%(run)s::text IS NULL OR run.name = %(run)s)
ORDER BY job.job_id DESC
LIMIT %(limit)s
