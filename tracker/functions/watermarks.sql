-- Return the piles of a queue's finished work, with the marks that hold the queue: one row for each measure. Extract
-- fills packs, ingest the pool, download the shards. Batches in progress count as if they were shards already: as one
-- sample per link, and as the average bytes per link so far, or 14,000 bytes before the first shard (700 TB over the 50
-- billion links of LAION's crawls). So a mark is exceeded at most by the batches that are drawn at the same moment.
-- Shards of a run without a filter, or of a run that keeps its shards for ever, do not count: they are never deleted,
-- so they would hold the queue for ever.
CREATE FUNCTION tracker.watermarks(p_queue tracker.queue)
RETURNS TABLE (what text, amount numeric, high numeric, resume numeric)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    sums record;
BEGIN
    IF p_queue = 'extract' THEN
        RETURN QUERY
        SELECT 'candidates in packs', coalesce(sum(n), 0), tracker.setting('packs_high'), tracker.setting('packs_resume')
        FROM tracker.tally WHERE account = 'packed';
    ELSIF p_queue = 'ingest' THEN
        RETURN QUERY
        SELECT 'candidates in the pool', coalesce(sum(n), 0), tracker.setting('pool_high'), tracker.setting('pool_resume')
        FROM tracker.tally WHERE account = 'pool';
    ELSIF p_queue = 'download' THEN
        SELECT coalesce(sum(n) FILTER (WHERE account = 'stored' AND label = 'bytes'), 0) AS bytes,
               coalesce(sum(n) FILTER (WHERE account = 'stored' AND label = 'written'), 0) AS written,
               coalesce(sum(n) FILTER (WHERE account = 'stored' AND label = 'samples'), 0) AS samples,
               coalesce(sum(n) FILTER (WHERE account = 'leased'), 0) AS leased,
               sum(n) FILTER (WHERE account = 'rows_in') AS links
        INTO sums
        FROM tracker.tally
        WHERE (account IN ('stored', 'leased') OR (account = 'rows_in' AND label = 'download'))
          AND run_id IN (SELECT run.run_id FROM tracker.run
                         WHERE recipe -> 'filter' IS DISTINCT FROM 'false' AND keep_shards <> 'forever');
        RETURN QUERY VALUES
            ('bytes in shards', ceil(sums.bytes + sums.leased * coalesce(sums.written / nullif(sums.links, 0), 14000)),
             tracker.setting('shard_bytes_high'), tracker.setting('shard_bytes_resume')),
            ('samples in shards', sums.samples + sums.leased,
             tracker.setting('shard_samples_high'), tracker.setting('shard_samples_resume'));
    END IF;
END
$$;
