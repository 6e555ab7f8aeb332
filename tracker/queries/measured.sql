-- What each queue has done so far, in rows and in working time; and what became of the samples.
SELECT account::text AS account, label, sum(n)::float8 AS n FROM tracker.tally
WHERE account IN ('rows_in', 'rows_out', 'milliseconds', 'filtered', 'in')
GROUP BY account, label
