-- The slots of the Bloom filter, their holders, and the packs that a new holder would have to replay.
SELECT count(*) AS slots, count(holder) AS held, coalesce(sum(ordinal), 0)::bigint AS packs,
       coalesce(max(ordinal - snapshot_ordinal), 0)::bigint AS packs_since_snapshot
FROM tracker.bloom
