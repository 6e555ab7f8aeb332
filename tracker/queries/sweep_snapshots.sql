-- The snapshots of the Bloom filter that a replay begins with, and the workers that are known.
SELECT snapshot_path AS name, 'listed' AS why FROM tracker.bloom WHERE snapshot_path = ANY (%(paths)s)
UNION ALL
SELECT worker_id::text, 'known' FROM tracker.worker WHERE worker_id = ANY (%(workers)s::uuid[])
