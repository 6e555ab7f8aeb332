-- Add an embed job for each part of a run that has samples; in a run without a filter, for each shard. A part that has
-- its own tar does not need its shard. For any other part, the shard's pictures are kept until the part is embedded.
-- Parts whose pictures are deleted cannot be embedded; they are only counted.
WITH source AS MATERIALIZED (
    SELECT part.path, 'part' AS kind, part.rows AS samples, part.subset,
           CASE WHEN part.tar_bytes = 0 THEN shard.path END AS shard,
           part.tar_bytes = 0 AND shard.tar_deleting_at IS NOT NULL AS is_gone
    FROM tracker.manifest AS part
    JOIN tracker.job AS filtered USING (job_id)
    JOIN tracker.manifest AS shard ON shard.path = filtered.payload ->> 'shard'
    WHERE part.run_id = %(run_id)s AND part.kind = 'part' AND part.rows > 0
    UNION ALL
    SELECT shard.path, 'shard', shard.samples, shard.subset, shard.path, shard.tar_deleting_at IS NOT NULL
    FROM tracker.manifest AS shard JOIN tracker.run USING (run_id)
    WHERE shard.run_id = %(run_id)s AND shard.kind = 'shard' AND shard.samples > 0 AND run.recipe -> 'filter' = 'false'
), seeded AS (
    INSERT INTO tracker.job (queue, run_id, payload)
    SELECT 'embed', %(run_id)s,
           jsonb_build_object('embedding', %(name)s::text, 'source', path, 'kind', kind, 'subset', subset,
                              'samples', samples, 'shard', shard)
    FROM source WHERE NOT is_gone
    ORDER BY path
    ON CONFLICT (run_id, (payload ->> 'embedding'), (payload ->> 'source')) WHERE payload ->> 'embedding' IS NOT NULL
        DO NOTHING
    RETURNING payload ->> 'shard' AS shard
), held AS (
    UPDATE tracker.manifest SET embeds = embeds + 1 WHERE path = ANY (ARRAY(SELECT shard FROM seeded))
)
SELECT (SELECT count(*) FROM source) AS sources, (SELECT count(*) FROM seeded) AS new,
       (SELECT count(*) FROM source
        WHERE is_gone AND NOT EXISTS (SELECT FROM tracker.job
                                      WHERE run_id = %(run_id)s AND payload ->> 'embedding' = %(name)s::text
                                        AND payload ->> 'source' = source.path)) AS gone
