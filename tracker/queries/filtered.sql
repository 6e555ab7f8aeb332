-- What became of the samples that a filter worker scored.
SELECT label, sum(n)::bigint AS n FROM tracker.tally WHERE account = 'filtered' GROUP BY label ORDER BY label
