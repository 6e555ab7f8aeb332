-- The tars that the manifest has given up, and that are not written off.
SELECT output_id, path FROM tracker.manifest
WHERE tar_deleting_at IS NOT NULL AND tar_deleted_at IS NULL ORDER BY output_id LIMIT %(most)s
