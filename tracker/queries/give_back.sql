-- End the leases of these workers: their jobs are ready at once, without using up an attempt, and their slots of the
-- Bloom filter are free.
WITH returned AS MATERIALIZED (
    UPDATE tracker.job
    SET state = 'ready', attempt = attempt - 1, ready_at = now(), worker_id = NULL, lease = NULL, leased_at = NULL
    WHERE worker_id = ANY (%(workers)s) AND state = 'leased'
    RETURNING job_id
), ended AS (
    UPDATE tracker.lease SET ending = 'evicted', ended_at = now()
    WHERE ending IS NULL AND job_id = ANY (ARRAY(SELECT job_id FROM returned))
), let_go AS (
    UPDATE tracker.bloom SET holder = NULL WHERE holder = ANY (%(workers)s)
)
SELECT count(*) AS n FROM returned
