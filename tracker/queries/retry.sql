-- Make dead jobs ready again, with all their attempts; their error is kept until they are done.
UPDATE tracker.job SET state = 'ready', attempt = 0, finished_at = NULL, ready_at = now()
WHERE job_id = ANY (%(ids)s) AND state = 'dead'
RETURNING job_id
