-- Add a build, without the units of its first step.
INSERT INTO tracker.build (run_id, queue, target, version, options, plan)
VALUES (%(run_id)s, %(queue)s::tracker.queue, %(target)s, %(version)s, %(options)s::jsonb, %(plan)s::jsonb)
RETURNING build_id
