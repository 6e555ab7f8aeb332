-- Count the candidates in the tables row by row: in the pool, waiting again, in batches, and in discarded batches.
SELECT run.name AS run, place.subset::text AS subset, place.account, place.n FROM (
    SELECT run_id, subset, 'pool' AS account, count(*) AS n FROM tracker.candidate GROUP BY run_id, subset
    UNION ALL
    SELECT run_id, subset, 'again', count(*) FROM tracker.again GROUP BY run_id, subset
    UNION ALL
    SELECT job.run_id, batch.subset, CASE job.state WHEN 'discarded' THEN 'discarded' ELSE 'leased' END,
           sum(cardinality(string_to_array(batch.payload, E'\n')))
    FROM tracker.batch JOIN tracker.job USING (job_id)
    GROUP BY 1, 2, 3
) AS place JOIN tracker.run USING (run_id)
