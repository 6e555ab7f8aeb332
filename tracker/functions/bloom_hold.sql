-- Assign a slot of the Bloom filter to an ingest worker: the slot that it holds, or one whose holder is not alive,
-- preferably a slot with packs waiting. The result describes the slot's filter: a snapshot, and the packs committed
-- since, in order and without a gap, so that packs[i] has ordinal snapshot_ordinal + 1 + i (i from 0).
CREATE FUNCTION tracker.bloom_hold(p_worker uuid)
RETURNS TABLE (slot smallint, ordinal bigint, snapshot_ordinal bigint, snapshot_path text, packs text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    asking tracker.worker := tracker.require_worker(p_worker);
    got smallint;
    before uuid;
BEGIN
    IF asking.kind <> 'ingest' THEN
        RAISE EXCEPTION 'a % worker holds no slot of the Bloom filter', asking.kind USING ERRCODE = 'SH003';
    END IF;
    -- Lock the worker's row, as an eviction does: a slot given to a worker that is gone would never become free. While
    -- the ingest queue is held, a worker without packs still counts as making progress; otherwise two workers would
    -- keep taking the slot from each other.
    UPDATE tracker.worker
    SET seen_at = now(),
        progressed_at = CASE WHEN EXISTS (
            SELECT FROM tracker.job WHERE job.worker_id = p_worker AND job.state = 'leased'
        ) THEN progressed_at ELSE now() END
    WHERE worker_id = p_worker AND state <> 'gone';
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT slot INTO got FROM tracker.bloom WHERE holder = p_worker FOR UPDATE;
    IF NOT FOUND THEN
        SELECT slot, holder INTO got, before FROM tracker.bloom
        WHERE holder IS NULL OR holder = ANY (ARRAY(SELECT tracker.stale_workers('ingest')))
        -- Two EXISTS, each served by a partial index; state IN (…) would scan all jobs.
        ORDER BY NOT (EXISTS (SELECT FROM tracker.job
                              WHERE state = 'ready' AND queue = 'ingest' AND job.slot = bloom.slot)
                      OR EXISTS (SELECT FROM tracker.job
                                 WHERE state = 'leased' AND queue = 'ingest' AND job.slot = bloom.slot)), slot
        LIMIT 1
        FOR UPDATE SKIP LOCKED;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        UPDATE tracker.bloom SET holder = p_worker WHERE slot = got;
        IF before IS NOT NULL THEN
            PERFORM tracker.take_back('ingest', got, ARRAY[before]);  -- these jobs need the slot
        END IF;
    END IF;
    RETURN QUERY
    SELECT bloom.slot, bloom.ordinal, bloom.snapshot_ordinal, bloom.snapshot_path,
           ARRAY(SELECT manifest.path FROM tracker.bloom_pack JOIN tracker.manifest USING (output_id)
                 WHERE bloom_pack.slot = bloom.slot AND bloom_pack.ordinal > bloom.snapshot_ordinal
                 ORDER BY bloom_pack.ordinal)
    FROM tracker.bloom WHERE bloom.slot = got;
END
$$;
