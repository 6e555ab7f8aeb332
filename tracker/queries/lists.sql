-- Return for each file of each link list how many of its pieces have been read, and how many of their rows were
-- dropped, by reason. Duplicates are those of the packs that have been ingested.
WITH piece AS MATERIALIZED (
    SELECT job_id, job.run_id, job.payload ->> 'list' AS list, job.state, job.result
    FROM tracker.job JOIN tracker.run USING (run_id)
    WHERE queue = 'ingest' AND job.payload ->> 'list' IS NOT NULL
      AND (%(run)s::text IS NULL OR run.name = %(run)s)
), pack AS (
    SELECT manifest.job_id, sum((job.result ->> 'duplicates')::bigint) AS duplicates
    FROM tracker.job JOIN tracker.manifest ON output_id = (job.payload ->> 'pack')::bigint
    WHERE job.queue = 'ingest' AND job.state = 'done' AND job.payload ? 'pack'
    GROUP BY manifest.job_id
), reason AS (
    SELECT run_id, list, jsonb_object_agg(key, n) AS dropped
    FROM (SELECT run_id, list, key, sum(value::bigint) AS n
          FROM piece, jsonb_each_text(result -> 'dropped') WHERE state = 'done' GROUP BY run_id, list, key) AS counted
    GROUP BY run_id, list
)
SELECT run.name AS run, list, count(*) AS pieces, count(*) FILTER (WHERE state = 'done') AS read,
       coalesce(sum((result ->> 'rows')::bigint), 0)::bigint AS rows,
       coalesce(sum((result ->> 'candidates')::bigint), 0)::bigint AS candidates,
       coalesce(sum(pack.duplicates), 0)::bigint AS duplicates, reason.dropped,
       coalesce(sum((result ->> 'mended_captions')::bigint), 0)::bigint AS mended,
       coalesce(sum((result ->> 'bad_extra_values')::bigint), 0)::bigint AS bad_extra
FROM piece JOIN tracker.run USING (run_id) LEFT JOIN pack USING (job_id) LEFT JOIN reason USING (run_id, list)
GROUP BY run.name, list, reason.dropped
ORDER BY run.name, list
