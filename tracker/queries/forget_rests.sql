-- Forget the hosts whose rest has been over for long: they are as any other again. Rows that a report holds are left.
WITH over AS MATERIALIZED (
    SELECT host FROM tracker.resting
    WHERE until < now() - make_interval(secs => (SELECT tracker.setting('rest_forget_seconds'))::float8)
    FOR UPDATE SKIP LOCKED
)
DELETE FROM tracker.resting WHERE host = ANY (ARRAY(SELECT host FROM over))
