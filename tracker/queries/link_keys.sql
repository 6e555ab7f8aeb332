-- Return every candidate in the database, by run and key: in the pool, waiting again, in batches (also discarded ones).
-- In binary format a row takes only 22 bytes.
COPY (
    SELECT run_id, pack << 32 | pack_row FROM tracker.candidate
    UNION ALL
    SELECT run_id, pack << 32 | pack_row FROM tracker.again
    UNION ALL
    SELECT job.run_id, split_part(line, E'\t', 1)::bigint << 32 | split_part(line, E'\t', 2)::bigint
    FROM tracker.batch JOIN tracker.job USING (job_id), string_to_table(batch.payload, E'\n') AS line
    WHERE batch.payload <> ''
) TO STDOUT (FORMAT binary)
