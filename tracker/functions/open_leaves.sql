-- Return, for each subset of a run, the leaf that new candidates go to: the emptiest one.
CREATE FUNCTION tracker.open_leaves(p_run_id int)
RETURNS TABLE (subset tracker.subset, leaf int, relation text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
    SELECT DISTINCT ON (leaf.subset) leaf.subset, leaf.leaf, leaf.relation
    FROM tracker.leaf
    LEFT JOIN (SELECT leaf, sum(n) AS n FROM tracker.tally WHERE account = 'pool' GROUP BY leaf) AS held USING (leaf)
    WHERE leaf.run_id = p_run_id
    ORDER BY leaf.subset, coalesce(held.n, 0), leaf.leaf
$$;
