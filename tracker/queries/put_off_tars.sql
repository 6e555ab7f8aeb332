-- These tars could not be deleted: the others have their turn first.
UPDATE tracker.manifest SET tar_deleting_at = clock_timestamp()
WHERE output_id = ANY (%(ids)s) AND tar_deleted_at IS NULL
