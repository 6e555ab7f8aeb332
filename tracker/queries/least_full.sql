-- Count the candidates in the emptiest leaf of each subset of a run.
SELECT leaf.subset, min(coalesce(held.n, 0)) AS least
FROM tracker.leaf
LEFT JOIN (SELECT leaf, sum(n) AS n FROM tracker.tally WHERE account = 'pool' GROUP BY leaf) AS held USING (leaf)
WHERE leaf.run_id = %(run_id)s
GROUP BY leaf.subset
