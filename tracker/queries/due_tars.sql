-- The tars of a run that would be deleted at once if it kept its shards for this time.
SELECT count(*) AS shards, coalesce(sum(tar_bytes), 0)::bigint AS bytes
FROM tracker.manifest JOIN tracker.run USING (run_id)
WHERE run.name = %(run)s AND filtered_at IS NOT NULL AND tar_deleting_at IS NULL AND embeds = 0 AND %(keep)s <> 'forever'
  AND (kept_apart OR %(keep)s <> 'kept')
  AND filtered_at <= now() - CASE WHEN %(keep)s IN ('kept', 'forever') THEN interval '0' ELSE %(keep)s::interval END
