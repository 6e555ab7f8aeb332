-- Turn a batch into a shard. Every link is accounted for once: finished with an outcome, waiting for another try, kept
-- for later because its host rests (which does not use up a try), or returned to the pool untried. Otherwise this
-- raises. Links are named by their position in the stored payload, so a worker cannot substitute others. p_result:
-- {"finished": {outcome: n}, "again": [position, …], "returned": [position, …],
--            "later": [[position, seconds], …], "samples": n, "bytes": n as received, "tar_bytes": n as stored,
--            "refused": as in heartbeat_download, "hosts": {"asked": n, "refused": n}}
CREATE FUNCTION tracker.complete_download(p_job bigint, p_lease uuid, p_result jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    done tracker.job;
    held tracker.batch;
    home tracker.leaf;
    again_at int[] := ARRAY(SELECT jsonb_array_elements_text(p_result -> 'again')::int);
    returned_at int[] := ARRAY(SELECT jsonb_array_elements_text(p_result -> 'returned')::int);
    later_at int[] := ARRAY(SELECT (value ->> 0)::int FROM jsonb_array_elements(p_result -> 'later'));
    finished_n bigint;
    samples_n bigint := (p_result ->> 'samples')::bigint;
    stored_n bigint := coalesce((p_result ->> 'tar_bytes')::bigint, (p_result ->> 'bytes')::bigint, 0);
    pause float8 := tracker.setting('again_seconds');
    moved bigint;
BEGIN
    -- Lock the worker's row first, which count_hosts updates at the end: an eviction locks in the same order.
    PERFORM FROM tracker.worker
    WHERE worker_id = (SELECT worker_id FROM tracker.job WHERE job_id = p_job AND lease = p_lease) FOR NO KEY UPDATE;
    SELECT coalesce(sum(value::bigint), 0) INTO finished_n FROM jsonb_each_text(p_result -> 'finished');
    IF NOT tracker.finish('download', p_job, p_lease, p_result - 'again' - 'returned' - 'later' - 'refused',
                          finished_n + cardinality(again_at), samples_n) THEN
        RETURN;
    END IF;
    SELECT * INTO done FROM tracker.job WHERE job_id = p_job;
    SELECT * INTO held FROM tracker.batch WHERE job_id = p_job;
    IF finished_n + cardinality(again_at) + cardinality(returned_at) + cardinality(later_at) <> held.n
       OR (SELECT count(DISTINCT at) FROM unnest(again_at || returned_at || later_at) AS at WHERE at BETWEEN 0 AND held.n - 1)
          <> cardinality(again_at) + cardinality(returned_at) + cardinality(later_at)
       OR EXISTS (SELECT FROM jsonb_each_text(p_result -> 'finished') WHERE value::bigint < 0)
       OR samples_n IS DISTINCT FROM coalesce((p_result -> 'finished' ->> 'success')::bigint, 0) THEN
        RAISE EXCEPTION 'the outcomes of job % do not account for its % links once each', p_job, held.n
            USING ERRCODE = 'SH003', HINT = 'this is a fault of the worker; report it';
    END IF;
    INSERT INTO tracker.ledger (run_id, job_id, account, label, subset, n)
    SELECT done.run_id, p_job, 'finished', key::tracker.outcome::text, held.subset, value::bigint
    FROM jsonb_each_text(p_result -> 'finished') WHERE value::bigint <> 0;

    IF cardinality(again_at) > 0 THEN
        INSERT INTO tracker.again (due_at, run_id, subset, attempt, pack, pack_row, language, url, text, extra)
        SELECT now() + make_interval(secs => pause * 2 ^ (line.attempt - 1)),
               done.run_id, held.subset, line.attempt + 1, line.pack, line.pack_row, line.language, line.url, line.text,
               line.extra
        FROM tracker.payload_links(held.payload, again_at) AS line
        WHERE line.attempt < held.max_tries;
        GET DIAGNOSTICS moved = ROW_COUNT;
        IF moved <> cardinality(again_at) THEN
            RAISE EXCEPTION 'a link of job % has had its last try; its outcome is final', p_job USING ERRCODE = 'SH003';
        END IF;
    END IF;
    IF cardinality(later_at) > 0 THEN
        INSERT INTO tracker.again (due_at, run_id, subset, attempt, pack, pack_row, language, url, text, extra)
        SELECT now() + make_interval(secs => least(greatest((told ->> 1)::float8, 0), 86400)),
               done.run_id, held.subset, line.attempt, line.pack, line.pack_row, line.language, line.url, line.text,
               line.extra
        FROM tracker.payload_links(held.payload, later_at) AS line
        JOIN jsonb_array_elements(p_result -> 'later') AS told ON (told ->> 0)::int = line.place;
    END IF;
    IF cardinality(returned_at) > 0 THEN
        SELECT * INTO STRICT home FROM tracker.leaf
        WHERE run_id = done.run_id AND subset = held.subset ORDER BY leaf DESC LIMIT 1;
        EXECUTE format(
            'INSERT INTO tracker.%I (pack, pack_row, leaf, run_id, attempt, subset, language, url, text, extra)
             SELECT pack, pack_row, $1, $2, attempt, $3, language, url, text, extra FROM tracker.payload_links($4, $5)', home.relation)
        USING home.leaf, done.run_id, held.subset, held.payload, returned_at;
    END IF;
    DELETE FROM tracker.batch WHERE job_id = p_job;

    PERFORM tracker.post(done.run_id, p_job, 'leased', NULL, held.subset, -held.n);
    PERFORM tracker.post(done.run_id, p_job, 'again', NULL, held.subset, cardinality(again_at) + cardinality(later_at));
    PERFORM tracker.post(done.run_id, p_job, 'pool', NULL, held.subset, cardinality(returned_at), home.leaf);
    IF finished_n + cardinality(again_at) > 0 THEN
        INSERT INTO tracker.manifest (kind, run_id, job_id, lease, subset, path, rows, samples, bytes, tar_bytes)
        VALUES ('shard', done.run_id, p_job, p_lease, held.subset,
                tracker.output_path('download', done.run_id, p_job, p_lease), finished_n + cardinality(again_at),
                samples_n, (p_result ->> 'bytes')::bigint, stored_n);
        PERFORM tracker.post(done.run_id, p_job, 'stored', entry.label, NULL, entry.n)
        FROM (VALUES ('bytes', stored_n), ('written', stored_n), ('samples', samples_n)) AS entry (label, n);
    END IF;
    -- A run without a filter is complete with its shards.
    IF samples_n > 0 AND (SELECT recipe -> 'filter' FROM tracker.run WHERE run_id = done.run_id) IS DISTINCT FROM 'false' THEN
        INSERT INTO tracker.job (queue, run_id, priority, payload)
        VALUES ('filter', done.run_id, done.priority,
                jsonb_build_object('shard', tracker.output_path('download', done.run_id, p_job, p_lease),
                                   'subset', held.subset, 'samples', samples_n));
    END IF;
    PERFORM tracker.count_hosts(done.worker_id, p_result -> 'hosts');
    IF p_result -> 'refused' <> '{}' THEN  -- last, because others wait for these rows until this commits
        PERFORM tracker.note_refusals(p_result -> 'refused');
    END IF;
END
$$;
