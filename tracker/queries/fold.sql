-- Move every ledger entry into its counter; an advisory lock lets one fold at a time.
WITH turn AS MATERIALIZED (
    SELECT pg_advisory_xact_lock(7264932)
), moved AS (
    DELETE FROM tracker.ledger WHERE EXISTS (SELECT FROM turn)
    RETURNING run_id, account, label, subset, leaf, n
), summed AS (
    INSERT INTO tracker.counter (run_id, account, label, subset, leaf, n)
    SELECT run_id, account, label, subset, leaf, sum(n) FROM moved GROUP BY run_id, account, label, subset, leaf
    ON CONFLICT ON CONSTRAINT counter_key DO UPDATE SET n = counter.n + excluded.n
)
SELECT count(*) AS folded FROM moved
