-- Count the workers whose last heartbeat is at most this many seconds old.
SELECT count(*) AS n FROM tracker.worker
WHERE state <> 'gone' AND seen_at > now() - make_interval(secs => %(seconds)s::float8)
