-- The Bloom filter: its slots, who holds them, and what a lost holder would have to replay.
SELECT count(*) AS slots, count(holder) AS held, coalesce(sum(ordinal), 0)::bigint AS packs,
       coalesce(max(ordinal - snapshot_ordinal), 0)::bigint AS packs_since_snapshot
FROM tracker.bloom
