-- Block or lift patterns, all as one new version of the list. The caller has locked the table.
INSERT INTO tracker.block AS known (pattern, version, lifted, reason)
SELECT pattern, (SELECT coalesce(max(version), 0) + 1 FROM tracker.block), %(lifted)s, coalesce(%(reason)s, '')
FROM unnest(%(patterns)s::text[]) AS pattern
ON CONFLICT (pattern) DO UPDATE
SET version = excluded.version, lifted = excluded.lifted, changed_at = now(),
    reason = CASE WHEN excluded.lifted THEN known.reason ELSE excluded.reason END
