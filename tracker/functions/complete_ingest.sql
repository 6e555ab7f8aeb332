-- Count a pack's new candidates into the pool, and commit the pack to its slot of the filter. Only the slot's holder
-- may do that; the slot's row is locked, so that commits have a fixed order, in which a replay repeats them. p_result:
-- {"duplicates": n, "added": [{"subset": …, "leaf": n, "n": n}, …], "expected_wrong": n, how many of the duplicates are
-- probably new links, by the filter's error rate}
CREATE FUNCTION tracker.complete_ingest(p_job bigint, p_lease uuid, p_result jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    done tracker.job;
    entry record;
    next_ordinal bigint;
    duplicates_n bigint := (p_result ->> 'duplicates')::bigint;
    added bigint := (SELECT coalesce(sum((value ->> 'n')::bigint), 0) FROM jsonb_array_elements(p_result -> 'added'));
BEGIN
    IF NOT tracker.finish('ingest', p_job, p_lease, p_result, added + duplicates_n, added) THEN
        RETURN;
    END IF;
    SELECT * INTO done FROM tracker.job WHERE job_id = p_job;
    UPDATE tracker.bloom SET ordinal = ordinal + 1 WHERE slot = done.slot AND holder = done.worker_id
    RETURNING ordinal INTO next_ordinal;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'worker % does not hold slot % of the Bloom filter', done.worker_id, done.slot
            USING ERRCODE = 'SH001', HINT = 'drop the work: another worker holds the slot now';
    END IF;
    INSERT INTO tracker.bloom_pack (slot, ordinal, output_id)
    VALUES (done.slot, next_ordinal, (done.payload ->> 'pack')::bigint);
    FOR entry IN
        SELECT * FROM jsonb_to_recordset(p_result -> 'added') AS x (subset tracker.subset, leaf int, n bigint)
    LOOP
        IF entry.n IS NULL OR entry.n < 0 OR NOT EXISTS (SELECT FROM tracker.leaf
                WHERE leaf = entry.leaf AND subset = entry.subset AND run_id = done.run_id) THEN
            RAISE EXCEPTION 'leaf % is not one of run % and subset %', entry.leaf, done.run_id, entry.subset
                USING ERRCODE = 'SH003';
        END IF;
        PERFORM tracker.post(done.run_id, p_job, 'in', NULL, entry.subset, entry.n);
        PERFORM tracker.post(done.run_id, p_job, 'pool', NULL, entry.subset, entry.n, entry.leaf);
    END LOOP;
    IF duplicates_n IS NULL OR duplicates_n < 0 OR added + duplicates_n <> (done.payload ->> 'rows')::bigint THEN
        RAISE EXCEPTION 'the pack has % rows, but % were added and % were duplicates',
            done.payload ->> 'rows', added, duplicates_n USING ERRCODE = 'SH003';
    END IF;
    PERFORM tracker.post(done.run_id, p_job, 'packed', NULL, NULL, -(done.payload ->> 'rows')::bigint);
    PERFORM tracker.post(done.run_id, p_job, 'bloom', 'expected', NULL,
                         round(1000 * greatest(coalesce((p_result ->> 'expected_wrong')::numeric, 0), 0))::bigint);
END
$$;
