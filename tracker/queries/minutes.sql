-- What each queue did in each of the last 30 minutes: minute 0 is the current one. Rows are images → candidates for
-- extract, packs' rows → new candidates for ingest, links that ended → samples for download, samples → pairs for filter,
-- samples → embedded ones for embed. A list's piece counts as a job; its rows come in with its packs.
-- A lease that was granted more than 6 hours ago is not looked for: the index is by when it was granted.
SELECT job.queue::text AS queue, floor(extract(epoch FROM now() - lease.ended_at) / 60)::int AS minute,
       count(*) FILTER (WHERE ending = 'completed') AS jobs,
       count(*) FILTER (WHERE ending IN ('failed', 'taken_over')) AS failures,
       coalesce(sum(rows.n_in) FILTER (WHERE ending = 'completed'), 0)::bigint AS rows_in,
       coalesce(sum(rows.n_out) FILTER (WHERE ending = 'completed'), 0)::bigint AS rows_out
FROM tracker.lease JOIN tracker.job USING (job_id)
CROSS JOIN LATERAL (
    SELECT CASE job.queue
               WHEN 'extract' THEN (job.result ->> 'images')::bigint
               WHEN 'ingest' THEN CASE WHEN job.payload ? 'pack' THEN (job.payload ->> 'rows')::bigint END
               WHEN 'download' THEN (SELECT sum(value::bigint) FROM jsonb_each_text(job.result -> 'finished'))
               WHEN 'filter' THEN (job.payload ->> 'samples')::bigint
               WHEN 'embed' THEN (job.result ->> 'embedded')::bigint + (job.result ->> 'lost')::bigint
           END AS n_in,
           CASE job.queue
               WHEN 'extract' THEN (job.result ->> 'candidates')::bigint
               WHEN 'ingest' THEN (job.payload ->> 'rows')::bigint - (job.result ->> 'duplicates')::bigint
               WHEN 'download' THEN (job.result ->> 'samples')::bigint
               WHEN 'filter' THEN (job.result ->> 'kept')::bigint
               WHEN 'embed' THEN (job.result ->> 'embedded')::bigint
           END AS n_out
) AS rows
WHERE lease.granted_at > now() - interval '6 hours' AND lease.ended_at > now() - interval '30 minutes'
GROUP BY job.queue, 2
ORDER BY job.queue, 2
