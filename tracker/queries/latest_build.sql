-- Lock and return the latest build of a release for a queue and target; `same` is true if it was seeded with this
-- version and these options.
SELECT build_id, finished_at IS NOT NULL AS finished, abandoned_at IS NOT NULL AS abandoned,
       plan -> step ->> 0 AS step, units_left,
       version = %(version)s AND options = %(options)s::jsonb AS same
FROM tracker.build WHERE run_id = %(run_id)s AND queue = %(queue)s::tracker.queue AND target = %(target)s
ORDER BY build_id DESC LIMIT 1
FOR NO KEY UPDATE
