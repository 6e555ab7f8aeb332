-- Let active workers finish the jobs that they hold, and leave.
UPDATE tracker.worker SET state = 'draining' WHERE worker_id = ANY (%(workers)s) AND state = 'active'
RETURNING worker_id::text AS worker
