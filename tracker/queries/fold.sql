-- Move every ledger entry into its counter. The caller holds the lock that allows only one fold at a time.
WITH moved AS (
    DELETE FROM tracker.ledger
    RETURNING run_id, account, label, subset, leaf, n
), summed AS (
    INSERT INTO tracker.counter (run_id, account, label, subset, leaf, n)
    SELECT run_id, account, label, subset, leaf, sum(n) FROM moved GROUP BY run_id, account, label, subset, leaf
    ON CONFLICT ON CONSTRAINT counter_key DO UPDATE SET n = counter.n + excluded.n
)
SELECT count(*) AS folded FROM moved
