-- Mark a worker as burnt and let it end what it holds; none if it is not active any more.
UPDATE tracker.worker SET state = 'draining', burnt_at = now(), burnt_reason = %(reason)s
WHERE worker_id = %(worker)s AND state = 'active'
RETURNING worker_id
