-- The verdicts of the filter on samples.
SELECT label, sum(n)::bigint AS n FROM tracker.tally WHERE account = 'filtered' GROUP BY label ORDER BY label
