-- Count the leased units of the builds of a release for a queue and target.
SELECT count(*) AS n FROM tracker.job JOIN tracker.build ON build_id = (payload ->> 'build')::int
WHERE job.state = 'leased' AND job.queue = %(queue)s::tracker.queue
  AND build.run_id = %(run_id)s AND build.queue = %(queue)s::tracker.queue AND target = %(target)s
