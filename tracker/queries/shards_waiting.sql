-- Count the shards of each subset that wait for a filter worker.
SELECT payload ->> 'subset' AS subset, count(*) AS n FROM tracker.job
WHERE queue = 'filter' AND state = 'ready' GROUP BY 1
