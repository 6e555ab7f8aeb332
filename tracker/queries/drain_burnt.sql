-- Mark an active worker as burnt and drain it.
UPDATE tracker.worker SET state = 'draining', burnt_at = now(), burnt_reason = %(reason)s
WHERE worker_id = %(worker)s AND state = 'active'
RETURNING worker_id
