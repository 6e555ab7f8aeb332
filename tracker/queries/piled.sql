-- Return the piles between the stages whose size in the ledger differs from that in the jobs and the manifest.
SELECT run.name AS run, seen.what, coalesce(sum(seen.booked), 0)::bigint AS booked,
       coalesce(sum(seen.there), 0)::bigint AS there
FROM (
    SELECT run_id, CASE account WHEN 'packed' THEN 'candidates in packs' ELSE label || ' in shards' END AS what,
           n AS booked, 0 AS there
    FROM tracker.tally WHERE account = 'packed' OR (account = 'stored' AND label <> 'written')
    UNION ALL
    SELECT run_id, 'samples to be filtered', CASE account WHEN 'finished' THEN n ELSE -n END, 0
    FROM tracker.tally JOIN tracker.run USING (run_id)
    WHERE ((account = 'finished' AND label = 'success') OR account = 'filtered') AND recipe -> 'filter' IS DISTINCT FROM 'false'
    UNION ALL
    SELECT run_id, 'samples to be filtered', 0, (payload ->> 'samples')::bigint
    FROM tracker.job WHERE queue = 'filter' AND state NOT IN ('done', 'discarded')
    UNION ALL
    SELECT run_id, 'candidates in packs', 0, (payload ->> 'rows')::bigint
    FROM tracker.job WHERE queue = 'ingest' AND state NOT IN ('done', 'discarded') AND payload ? 'pack'
    UNION ALL
    SELECT run_id, entry.what, 0, entry.n
    FROM tracker.manifest,
         LATERAL (VALUES ('bytes in shards', tar_bytes), ('samples in shards', samples)) AS entry (what, n)
    WHERE kind = 'shard' AND tar_deleted_at IS NULL
) AS seen JOIN tracker.run USING (run_id)
GROUP BY run.name, seen.what HAVING sum(seen.booked) <> sum(seen.there)
ORDER BY run.name, seen.what
