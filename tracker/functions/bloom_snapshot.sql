-- Record a snapshot of the slot's filter, which contains every pack up to an ordinal; the next holder replays the packs
-- after it.
CREATE FUNCTION tracker.bloom_snapshot(p_worker uuid, p_slot int, p_ordinal bigint, p_path text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
BEGIN
    PERFORM tracker.require_worker(p_worker);
    UPDATE tracker.bloom SET snapshot_ordinal = p_ordinal, snapshot_path = p_path
    WHERE slot = p_slot AND holder = p_worker AND p_ordinal BETWEEN snapshot_ordinal AND ordinal;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'worker % does not hold slot % of the Bloom filter up to %', p_worker, p_slot, p_ordinal
            USING ERRCODE = 'SH001', HINT = 'drop the snapshot: another worker holds the slot now';
    END IF;
END
$$;
