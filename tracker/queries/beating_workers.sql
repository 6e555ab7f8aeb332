-- How many workers have beaten within so many seconds.
SELECT count(*) AS n FROM tracker.worker
WHERE state <> 'gone' AND seen_at > now() - make_interval(secs => %(seconds)s::float8)
