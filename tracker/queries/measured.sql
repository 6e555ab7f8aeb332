-- The rows and working time of each queue, and the verdicts on samples.
SELECT account::text AS account, label, sum(n)::float8 AS n FROM tracker.tally
WHERE account IN ('rows_in', 'rows_out', 'milliseconds', 'filtered', 'in')
GROUP BY account, label
