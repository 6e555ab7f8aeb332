-- Change the priority of jobs that have not ended; jobs that follow from them inherit it.
UPDATE tracker.job SET priority = %(priority)s
WHERE job_id = ANY (%(ids)s) AND state IN ('ready', 'leased', 'dead') AND priority <> %(priority)s
RETURNING job_id
