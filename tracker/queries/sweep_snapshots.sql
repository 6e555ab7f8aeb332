-- Return the snapshots of the Bloom filter with which a replay begins, and the known workers.
SELECT snapshot_path AS name, 'listed' AS why FROM tracker.bloom WHERE snapshot_path = ANY (%(paths)s)
UNION ALL
SELECT worker_id::text, 'known' FROM tracker.worker WHERE worker_id = ANY (%(workers)s::uuid[])
