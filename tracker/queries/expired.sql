-- Count the leased jobs of each queue that may be taken over, because stale workers hold them.
SELECT job.queue::text AS queue, count(*) AS n FROM tracker.job
WHERE job.state = 'leased' AND job.worker_id IN (
    SELECT tracker.stale_workers(kind) FROM unnest(enum_range(NULL::tracker.queue)) AS kind
)
GROUP BY job.queue
