-- The latest changes by admin commands.
SELECT change_id, changed_at, who, login, command, subject, before, after FROM tracker.change
WHERE %(command)s::text IS NULL OR command = %(command)s
ORDER BY change_id DESC LIMIT %(limit)s
