-- Return the work of each queue in each of the last 30 minutes; minute 0 is the current one. A piece of a
-- link list counts as a job; its rows count when its packs are ingested. Leases granted more than 6 hours ago are left
-- out, because the index is by the time of granting.
SELECT job.queue::text AS queue, floor(extract(epoch FROM now() - lease.ended_at) / 60)::int AS minute,
       count(*) FILTER (WHERE ending = 'completed') AS jobs,
       count(*) FILTER (WHERE ending IN ('failed', 'taken_over')) AS failures,
       coalesce(sum(lease.rows_in), 0)::bigint AS rows_in,
       coalesce(sum(lease.rows_out), 0)::bigint AS rows_out
FROM tracker.lease JOIN tracker.job USING (job_id)
WHERE lease.granted_at > now() - interval '6 hours' AND lease.ended_at > now() - interval '30 minutes'
GROUP BY job.queue, 2
ORDER BY job.queue, 2
