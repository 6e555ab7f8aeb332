-- Delete the hosts whose rest ended long ago. Locked rows are skipped.
WITH over AS MATERIALIZED (
    SELECT host FROM tracker.resting
    WHERE until < now() - make_interval(secs => (SELECT tracker.setting('rest_forget_seconds'))::float8)
    FOR UPDATE SKIP LOCKED
)
DELETE FROM tracker.resting WHERE host = ANY (ARRAY(SELECT host FROM over))
