-- Mark workers as gone that have been silent for an hour and hold no job. Locked rows (a claim in progress) are
-- skipped.
WITH silent AS MATERIALIZED (
    SELECT worker_id FROM tracker.worker
    WHERE state <> 'gone' AND seen_at < now() - interval '1 hour'
      AND NOT EXISTS (SELECT FROM tracker.job WHERE job.worker_id = worker.worker_id AND job.state = 'leased')
    FOR UPDATE SKIP LOCKED
), let_go AS (
    UPDATE tracker.bloom SET holder = NULL WHERE holder = ANY (ARRAY(SELECT worker_id FROM silent))
)
UPDATE tracker.worker SET state = 'gone' WHERE worker_id = ANY (ARRAY(SELECT worker_id FROM silent))
