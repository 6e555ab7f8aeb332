-- Draw a batch of candidates for a download worker and lease it, in one transaction.
--
-- First the request's own batch, if its reply was lost; then one whose lease has expired or that was given back; else a
-- new one. A new batch comes from one leaf, chosen in proportion to what waits (times the weight of its subset), by
-- TABLESAMPLE SYSTEM without LIMIT, with the percentage from the leaf's exact count: LIMIT would stop at the first
-- pages and make the sample anything but uniform. (The one below, at twice a batch, is only reached when an ingest
-- commits between the count and the sample.) Sample and DELETE name the same leaf: a ctid is unique only in it.
-- A draw that has a leaf to itself deletes at once. One that meets another there locks its rows first and passes by what
-- is locked, so that it waits for nobody; that writes every row twice (38 ms a draw, not 30). One that finds nothing,
-- because others are just taking the last of its leaf, turns to another leaf.
-- Links whose second try is due go first, up to their share. An empty pool costs no scan.
CREATE FUNCTION tracker.draw(p_worker uuid, p_request uuid)
RETURNS TABLE (
    job_id bigint, lease uuid, attempt smallint, run_id int, run text, recipe jsonb, output text,
    subset tracker.subset, n int, max_tries smallint, payload text
)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    asking tracker.worker := tracker.require_worker(p_worker);
    mine bigint[];
    new_job tracker.job;
    target record;
    tried int[] := '{}';
    want int := tracker.setting('batch_size');
    pool_n int := 0;
    again_lines text;
    again_n int := 0;
    drawn text;  -- a new batch's payload: each copy of it costs half a millisecond, and to read it back 4
    share float8;
    percent float8;
    alone boolean := false;
BEGIN
    PERFORM tracker.require_class('download');
    -- The same request may be in flight twice, its first connection cut: one after the other, they get one batch.
    SELECT * INTO asking FROM tracker.worker WHERE worker_id = p_worker FOR NO KEY UPDATE;
    SELECT array_agg(job_id) INTO mine FROM tracker.leases_of_request(p_worker, p_request);
    IF mine IS NULL THEN
        IF asking.state <> 'active' OR tracker.is_closed('download') THEN
            RETURN;
        END IF;
        SELECT array_agg(job_id) INTO mine FROM tracker.lease_jobs(p_worker, p_request, 'download', 0, 1);
    END IF;

    IF mine IS NULL THEN
        LOOP
            SELECT * INTO target FROM tracker.choose_leaf(tried);
            IF NOT FOUND THEN
                RETURN;
            END IF;
            share := CASE WHEN target.waiting > 0 THEN tracker.setting('again_share') ELSE 1 END;

            WITH due AS MATERIALIZED (
                SELECT ctid FROM tracker.again
                WHERE due_at <= now() AND run_id = target.run_id AND subset = target.subset
                ORDER BY due_at
                LIMIT ceil(want * share)
                FOR UPDATE SKIP LOCKED
            ), taken AS (
                DELETE FROM tracker.again WHERE ctid = ANY (ARRAY(SELECT ctid FROM due))
                RETURNING concat_ws(E'\t', pack, pack_row, attempt, coalesce(language, ''), url, text, nullif(extra, ''))
                          AS line
            )
            SELECT string_agg(line, E'\n'), count(*) INTO again_lines, again_n FROM taken;

            -- A leaf with less than one and a half batches is taken whole, so that it ends. A leaf of few pages can give
            -- an empty sample: then another is drawn, twice as large.
            percent := CASE WHEN target.waiting <= 1.5 * (want - again_n) THEN 100
                            ELSE 100 * (want - again_n) / target.waiting::float8 END;
            -- Where a superuser's migrate took this function from PUBLIC, and a later one was no superuser's, it is
            -- nobody's.
            IF has_function_privilege('pg_try_advisory_xact_lock(int, int)', 'EXECUTE') THEN
                alone := pg_try_advisory_xact_lock('tracker.candidate'::regclass::int, target.leaf);
            END IF;
            WHILE target.waiting > 0 AND again_n < want AND pool_n = 0 LOOP
                EXECUTE format(
                    'WITH taken AS (
                        DELETE FROM ONLY tracker.%1$I WHERE ctid = ANY (ARRAY(
                            SELECT ctid FROM ONLY tracker.%1$I TABLESAMPLE SYSTEM ($1) LIMIT $2 %2$s))
                        RETURNING concat_ws(E''\t'', pack, pack_row, attempt, coalesce(language, ''''), url, text,
                                            nullif(extra, '''')) AS line
                    )
                    SELECT string_agg(line, E''\n''), count(*)
                    FROM taken', target.relation, CASE WHEN alone THEN '' ELSE 'FOR UPDATE SKIP LOCKED' END)
                INTO drawn, pool_n
                USING percent, 2 * want + 1000;
                EXIT WHEN percent = 100;
                percent := least(100, 2 * percent);
            END LOOP;
            EXIT WHEN pool_n + again_n > 0;
            -- Others are just taking the last of this leaf.
            IF target.leaf IS NULL THEN
                RETURN;
            END IF;
            tried := tried || target.leaf;
        END LOOP;

        IF again_n > 0 THEN
            drawn := concat_ws(E'\n', again_lines, drawn);
        END IF;
        INSERT INTO tracker.job (queue, state, run_id, attempt, worker_id, lease, leased_at)
        VALUES ('download', 'leased', target.run_id, 1, p_worker, gen_random_uuid(), now())
        RETURNING * INTO new_job;
        INSERT INTO tracker.batch (job_id, subset, n, max_tries, payload)
        VALUES (new_job.job_id, target.subset, pool_n + again_n, tracker.setting('max_tries'), drawn);
        INSERT INTO tracker.lease (lease, job_id, worker_id, request)
        VALUES (new_job.lease, new_job.job_id, p_worker, p_request);
        INSERT INTO tracker.ledger (run_id, account, subset, leaf, n, job_id)
        SELECT target.run_id, entry.account, target.subset, entry.leaf, entry.n, new_job.job_id
        FROM (VALUES ('pool'::tracker.account, target.leaf, -pool_n), ('again', NULL, -again_n),
                     ('leased', NULL, pool_n + again_n)) AS entry (account, leaf, n)
        WHERE entry.n <> 0;
        UPDATE tracker.worker SET progressed_at = now(), seen_at = now() WHERE worker_id = p_worker;
        mine := ARRAY[new_job.job_id];
    END IF;

    RETURN QUERY
    SELECT seen.job_id, seen.lease, seen.attempt, seen.run_id, seen.run, seen.recipe, seen.output,
           batch.subset, batch.n, batch.max_tries, coalesce(drawn, batch.payload)
    FROM tracker.job
    JOIN tracker.batch USING (job_id), tracker.claimed_job(job) AS seen
    WHERE job.job_id = ANY (mine);
END
$$;
