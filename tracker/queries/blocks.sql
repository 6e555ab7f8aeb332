-- All blocked patterns.
SELECT pattern, reason, changed_at AS blocked_at, version FROM tracker.block WHERE NOT lifted ORDER BY pattern
