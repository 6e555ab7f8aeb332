-- Record how much has come in and been drawn, unless there is a younger note than this; delete notes older than two
-- hours.
WITH forgotten AS (
    DELETE FROM tracker.pace WHERE measured_at < now() - interval '2 hours'
)
INSERT INTO tracker.pace (came_in, drawn)
SELECT coalesce(sum(n) FILTER (WHERE account = 'in'), 0),
       coalesce(sum(n) FILTER (WHERE account = 'in'), 0) - coalesce(sum(n) FILTER (WHERE account = 'pool'), 0)
FROM tracker.tally
WHERE account IN ('in', 'pool')
HAVING NOT EXISTS (SELECT FROM tracker.pace WHERE measured_at > now() - make_interval(secs => %(seconds)s))
ON CONFLICT DO NOTHING
