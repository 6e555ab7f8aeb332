-- Return the builds over releases that are in progress or ended within the last day.
SELECT build_id, build.queue::text AS queue, run.name AS run, target, plan -> step ->> 0 AS step, step + 1 AS number,
       jsonb_array_length(plan) AS steps, (plan -> step ->> 1)::int AS units, units_left,
       (SELECT count(*) FROM tracker.job
        WHERE job.queue = build.queue AND job.state = 'dead' AND payload ->> 'build' = build_id::text) AS failed,
       build.created_at::text, finished_at::text, abandoned_at::text
FROM tracker.build JOIN tracker.run USING (run_id)
WHERE coalesce(finished_at, abandoned_at, now()) > now() - interval '1 day'
ORDER BY build_id
