-- Jobs that have not ended come in another order; what follows from them inherits it.
UPDATE tracker.job SET priority = %(priority)s
WHERE job_id = ANY (%(ids)s) AND state IN ('ready', 'leased', 'dead') AND priority <> %(priority)s
RETURNING job_id
