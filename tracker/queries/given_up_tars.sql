-- Return the tars that are marked and not written off; those that were tried most recently come last.
SELECT output_id, path FROM tracker.manifest
WHERE tar_deleting_at IS NOT NULL AND tar_deleted_at IS NULL ORDER BY tar_deleting_at, output_id LIMIT %(most)s
