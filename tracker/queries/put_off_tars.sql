-- Put tars that could not be deleted behind the others.
UPDATE tracker.manifest SET tar_deleting_at = clock_timestamp()
WHERE output_id = ANY (%(ids)s) AND tar_deleted_at IS NULL
