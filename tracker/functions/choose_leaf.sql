-- The leaf that the next batch comes from, at random in proportion to what waits in it, times its subset's weight;
-- with an empty pool the run and subset of the longest-due second try (waiting = 0), if one is due.
-- Efraimidis and Spirakis 2006: the largest of ln(u)/w is a draw with probability in proportion to w.
CREATE FUNCTION tracker.choose_leaf()
RETURNS TABLE (run_id int, subset tracker.subset, leaf int, relation text, waiting bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT leaf.run_id, leaf.subset, leaf.leaf, leaf.relation, held.n::bigint
    FROM (SELECT leaf, sum(n) AS n FROM tracker.tally WHERE account = 'pool' GROUP BY leaf) AS held
    JOIN tracker.leaf USING (leaf)
    CROSS JOIN LATERAL (SELECT held.n * tracker.setting('weight_' || leaf.subset) AS weight) AS w
    WHERE held.n > 0 AND weight > 0
    ORDER BY ln(1 - random()) / weight DESC
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN QUERY
        SELECT run_id, subset, NULL::int, NULL::text, 0::bigint FROM tracker.again
        WHERE due_at <= now() ORDER BY due_at LIMIT 1;
    END IF;
END
$$;
