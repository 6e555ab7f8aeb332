-- Drain the workers of a revoked machine. Their last heartbeat is set to minus infinity, so that if a concurrent claim
-- still gets a lease, the next claim may take it over.
UPDATE tracker.worker SET seen_at = '-infinity', state = 'draining' WHERE machine = %(machine)s AND state <> 'gone'
