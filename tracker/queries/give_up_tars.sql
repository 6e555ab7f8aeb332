-- Mark the tars of shards that were filtered longer ago than their run keeps them, the oldest first. Tars that an embed
-- job needs are not marked. The statement reads two index ranges for each run, however many shards there are. Locked
-- rows are skipped.
WITH over AS MATERIALIZED (
    SELECT oldest.output_id
    FROM tracker.run CROSS JOIN (VALUES (true), (false)) AS pictures (apart), LATERAL (
        SELECT output_id FROM tracker.manifest
        WHERE manifest.run_id = run.run_id AND kept_apart = pictures.apart
          AND filtered_at IS NOT NULL AND tar_deleting_at IS NULL AND embeds = 0
          AND filtered_at <= now() - CASE WHEN run.keep_shards IN ('kept', 'forever') THEN interval '0'
                                          ELSE run.keep_shards::interval END
        ORDER BY filtered_at LIMIT %(most)s
        FOR UPDATE SKIP LOCKED
    ) AS oldest
    WHERE run.keep_shards <> 'forever' AND (pictures.apart OR run.keep_shards <> 'kept')
)
UPDATE tracker.manifest SET tar_deleting_at = now() WHERE output_id = ANY (ARRAY(SELECT output_id FROM over))
