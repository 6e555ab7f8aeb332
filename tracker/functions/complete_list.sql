-- Turn a piece of a link list into packs, each with one file for each slot of the Bloom filter: list each file and add
-- an ingest job for it. Every row is accounted for once: a candidate, or dropped for a reason. Packs have priority over
-- pieces, so that only a small part of a list is in the store as packs. p_result: {"rows": n, "candidates": n,
-- "dropped": {reason: n}, "packs": [[{"rows": n, "bytes": n}, …], …]}
CREATE FUNCTION tracker.complete_list(p_job bigint, p_lease uuid, p_result jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    done tracker.job;
    part record;
    listed bigint;
    rows_n bigint := (p_result ->> 'rows')::bigint;
    candidates_n bigint := (p_result ->> 'candidates')::bigint;
    dropped_n bigint;
    packed_n bigint := 0;
BEGIN
    IF NOT tracker.finish('ingest', p_job, p_lease, p_result, rows_n, candidates_n) THEN
        RETURN;
    END IF;
    SELECT * INTO done FROM tracker.job WHERE job_id = p_job;
    SELECT coalesce(sum(value::bigint), 0) INTO dropped_n FROM jsonb_each_text(p_result -> 'dropped');
    IF rows_n IS NULL OR candidates_n IS NULL OR candidates_n + dropped_n <> rows_n
       OR rows_n <> coalesce((done.payload ->> 'rows')::bigint, rows_n)
       OR EXISTS (SELECT FROM jsonb_each_text(p_result -> 'dropped') WHERE value::bigint < 0) THEN
        RAISE EXCEPTION '% candidates and % dropped do not account for the % rows of job %',
            candidates_n, dropped_n, coalesce((done.payload ->> 'rows')::bigint, rows_n), p_job USING ERRCODE = 'SH003';
    END IF;
    FOR part IN
        SELECT (pack.at - 1)::int AS pack, (piece.at - 1)::int AS slot,
               (piece.value ->> 'rows')::bigint AS n, (piece.value ->> 'bytes')::bigint AS size
        FROM jsonb_array_elements(p_result -> 'packs') WITH ORDINALITY AS pack (value, at),
             jsonb_array_elements(pack.value) WITH ORDINALITY AS piece (value, at)
        ORDER BY pack.at, piece.at
    LOOP
        IF part.slot >= tracker.setting('bloom_slots') OR part.n IS NULL OR part.n < 0 THEN
            RAISE EXCEPTION 'a pack has a slot %, the Bloom filter has %', part.slot, tracker.setting('bloom_slots')
                USING ERRCODE = 'SH003';
        END IF;
        CONTINUE WHEN part.n = 0;
        packed_n := packed_n + part.n;
        INSERT INTO tracker.manifest (kind, run_id, job_id, lease, path, rows, bytes)
        VALUES ('pack', done.run_id, p_job, p_lease,
                format('%s-%s.%s', tracker.output_path('ingest', done.run_id, p_job, p_lease),
                       lpad(part.pack::text, 5, '0'), part.slot), part.n, part.size)
        RETURNING output_id INTO listed;
        INSERT INTO tracker.job (queue, run_id, slot, priority, payload)
        SELECT 'ingest', done.run_id, part.slot, least(done.priority + 1, 32767),
               jsonb_build_object('pack', output_id, 'path', path, 'rows', rows)
               || CASE WHEN (done.payload ->> 'keep_duplicates')::boolean
                       THEN '{"keep_duplicates": true}' ELSE '{}' END::jsonb
        FROM tracker.manifest WHERE output_id = listed;
    END LOOP;
    IF packed_n <> candidates_n THEN
        RAISE EXCEPTION 'the packs of job % hold % candidates, not %', p_job, packed_n, candidates_n
            USING ERRCODE = 'SH003';
    END IF;
    PERFORM tracker.post(done.run_id, p_job, 'packed', NULL, NULL, packed_n);
END
$$;
