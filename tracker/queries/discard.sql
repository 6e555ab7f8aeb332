-- End dead jobs permanently. The links of a batch end as `discarded`, and its row stays, so that the exact audit can
-- count them. A pack's candidates stop counting as waiting. The samples of a shard that is never filtered are dropped
-- as `discarded`. Pictures that were to be embedded are not held any more. A build that loses one of its units is
-- abandoned, and its units that are not leased are discarded too.
WITH discarded AS MATERIALIZED (
    UPDATE tracker.job SET state = 'discarded' WHERE job_id = ANY (%(ids)s) AND state = 'dead'
    RETURNING job_id, queue, run_id, payload
), booked AS (
    INSERT INTO tracker.ledger (run_id, job_id, account, label, subset, n)
    SELECT run_id, job_id, 'filtered'::tracker.account, 'discarded', (payload ->> 'subset')::tracker.subset,
           (payload ->> 'samples')::bigint
    FROM discarded WHERE queue = 'filter'
    UNION ALL
    SELECT run_id, job_id, 'packed', NULL, NULL, -(payload ->> 'rows')::bigint
    FROM discarded WHERE queue = 'ingest' AND payload ? 'pack'  -- not a list's piece, whose rows are not in packs yet
    UNION ALL
    SELECT run_id, job_id, entry.account, entry.label, batch.subset, entry.n
    FROM discarded JOIN tracker.batch USING (job_id),
         LATERAL (VALUES ('leased'::tracker.account, NULL, -batch.n), ('finished', 'discarded', batch.n))
             AS entry (account, label, n)
), unfiltered AS (
    UPDATE tracker.manifest SET filtered_at = now(), kept_apart = true
    WHERE path = ANY (ARRAY(SELECT payload ->> 'shard' FROM discarded WHERE queue = 'filter'))
), unembedded AS (
    UPDATE tracker.manifest SET embeds = embeds - dropped.jobs
    FROM (SELECT payload ->> 'shard' AS shard, count(*)::int AS jobs FROM discarded WHERE queue = 'embed' GROUP BY 1) AS dropped
    WHERE path = dropped.shard
), abandoned AS (
    UPDATE tracker.build SET abandoned_at = now()
    WHERE build_id = ANY (ARRAY(SELECT (payload ->> 'build')::int FROM discarded)) AND finished_at IS NULL
), unneeded AS (
    UPDATE tracker.job SET state = 'discarded', finished_at = now()
    WHERE state = 'ready' AND payload ->> 'build' = ANY (ARRAY(SELECT payload ->> 'build' FROM discarded))
)
SELECT job_id FROM discarded
