-- Dead jobs end for good; the samples of a shard that is never filtered are dropped, as `discarded`.
WITH discarded AS MATERIALIZED (
    UPDATE tracker.job SET state = 'discarded' WHERE job_id = ANY (%(ids)s) AND state = 'dead' AND queue <> 'download'
    RETURNING job_id, queue, run_id, payload
), booked AS (
    INSERT INTO tracker.ledger (run_id, job_id, account, label, subset, n)
    SELECT run_id, job_id, 'filtered', 'discarded', (payload ->> 'subset')::tracker.subset,
           (payload ->> 'samples')::bigint
    FROM discarded WHERE queue = 'filter'
)
SELECT job_id FROM discarded
