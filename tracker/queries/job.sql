-- Return a job with everything known about it; for a batch, only the number of its links.
SELECT job.job_id, job.queue::text AS queue, job.state::text AS state, run.name AS run, job.attempt, job.priority,
       job.slot, job.payload, batch.subset::text AS subset, batch.n AS links, job.created_at, job.ready_at,
       job.leased_at, job.finished_at, job.result, job.error,
       ARRAY(SELECT path FROM tracker.manifest WHERE manifest.run_id = job.run_id AND manifest.job_id = job.job_id
             ORDER BY output_id) AS outputs
FROM tracker.job JOIN tracker.run USING (run_id) LEFT JOIN tracker.batch USING (job_id)
WHERE job.job_id = %(job)s
