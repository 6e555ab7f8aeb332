-- Mark as gone the workers that have been silent for an hour and hold nothing.
UPDATE tracker.worker SET state = 'gone'
WHERE state <> 'gone' AND seen_at < now() - interval '1 hour'
  AND NOT EXISTS (SELECT FROM tracker.job WHERE job.worker_id = worker.worker_id AND job.state = 'leased')
