-- Drain the workers of a revoked machine. Their beat is of long ago, so that a lease which a claim under way still gets
-- may be taken over by the next claim.
UPDATE tracker.worker SET seen_at = '-infinity', state = 'draining' WHERE machine = %(machine)s AND state <> 'gone'
