-- Return how many links the Bloom filter dropped, and how many of them were probably new.
SELECT tracker.setting('bloom_rate')::float8 AS rate,
       coalesce(sum(n) FILTER (WHERE account = 'rows_in'), 0)::bigint AS read,
       coalesce(sum(CASE account WHEN 'rows_in' THEN n WHEN 'rows_out' THEN -n END), 0)::bigint AS dropped,
       (coalesce(sum(n) FILTER (WHERE account = 'bloom'), 0) / 1000)::float8 AS expected_wrong
FROM tracker.tally
WHERE (account IN ('rows_in', 'rows_out') AND label = 'ingest') OR (account = 'bloom' AND label = 'expected')
