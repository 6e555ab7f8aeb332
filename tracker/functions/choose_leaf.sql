-- Choose the leaf of the next batch at random, with probability in proportion to its candidates times its subset's
-- weight, leaving out the leaves in p_tried.
-- With probability again_share, choose a leaf of the run and subset whose links have been due for another try longest,
-- so that a run whose pool is empty gets finished while the pools of others are full. If there is no such leaf,
-- `waiting` is 0. Source: Efraimidis and Spirakis 2006: the largest ln(u)/w is a draw with probability in proportion to
-- w.
CREATE FUNCTION tracker.choose_leaf(p_tried int[] DEFAULT '{}')
RETURNS TABLE (run_id int, subset tracker.subset, leaf int, relation text, waiting bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    due record;
    for_due boolean := random() < tracker.setting('again_share');
BEGIN
    -- One index lookup for each run and subset, so that the links of a stopped subset are not scanned.
    SELECT run.run_id, drawn.subset INTO due
    FROM tracker.run CROSS JOIN unnest(enum_range(NULL::tracker.subset)) AS drawn (subset),
         LATERAL (SELECT due_at FROM tracker.again
                  WHERE again.run_id = run.run_id AND again.subset = drawn.subset AND due_at <= now()
                  ORDER BY due_at LIMIT 1) AS first
    WHERE tracker.setting('weight_' || drawn.subset) > 0
    ORDER BY first.due_at LIMIT 1;
    for_due := for_due AND due.run_id IS NOT NULL;
    RETURN QUERY
    SELECT leaf.run_id, leaf.subset, leaf.leaf, leaf.relation, held.n::bigint
    FROM (SELECT leaf, sum(n) AS n FROM tracker.tally WHERE account = 'pool' GROUP BY leaf) AS held
    JOIN tracker.leaf USING (leaf)
    CROSS JOIN LATERAL (SELECT held.n * tracker.setting('weight_' || leaf.subset) AS weight) AS w
    WHERE held.n > 0 AND weight > 0 AND leaf.leaf <> ALL (p_tried)
      AND (NOT for_due OR (leaf.run_id = due.run_id AND leaf.subset = due.subset))
    ORDER BY ln(1 - random()) / weight DESC
    LIMIT 1;
    IF NOT FOUND AND due.run_id IS NOT NULL THEN
        RETURN QUERY SELECT due.run_id, due.subset, NULL::int, NULL::text, 0::bigint;
    END IF;
END
$$;
