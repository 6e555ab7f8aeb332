-- The last errors of jobs that are not done.
SELECT job_id, queue::text AS queue, state::text AS state, attempt, error FROM tracker.job
WHERE error IS NOT NULL AND state NOT IN ('done', 'discarded') ORDER BY job_id DESC LIMIT 5
