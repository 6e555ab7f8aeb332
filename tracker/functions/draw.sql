-- Draw a batch of candidates for a download worker and lease it, in one transaction.
--
-- Order: the request's own batch, if its reply was lost; a batch whose lease expired or that was released; a new batch.
-- A new batch comes from one leaf (see choose_leaf) by TABLESAMPLE SYSTEM without a LIMIT, with the percentage computed
-- from the leaf's exact count. A real LIMIT would stop at the first pages and bias the sample; the one below, twice a
-- batch, is reached only when an ingest commits between count and sample. Sample and DELETE name the same leaf, because
-- a ctid is unique only within it. If no other draw uses the leaf, the rows are deleted at once. Otherwise they are
-- first locked, skipping locked ones, so that a draw never waits for a lock; that writes every row twice
-- (docs/performance.md). If other draws are taking the last rows of the leaf, another leaf is tried. Links that are due
-- for another try go first, up to their share. An empty pool is recognised without a scan.
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
    drawn text;  -- a new batch's payload; kept in a variable, because reading it back from the table costs 4 ms
    share float8;
    percent float8;
    alone boolean := false;
BEGIN
    PERFORM tracker.require_class('download');
    -- The same request can arrive twice, if its first connection was cut. The lock lets one pass after the other, so
    -- that both get the same batch.
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

            -- A leaf with less than one and a half batches is drawn completely, so that it gets empty. The sample of a
            -- leaf with few pages can be empty; then the percentage is doubled.
            percent := CASE WHEN target.waiting <= 1.5 * (want - again_n) THEN 100
                            ELSE 100 * (want - again_n) / target.waiting::float8 END;
            -- A migrate by a superuser revokes this function from PUBLIC; a role that a later migrate creates without
            -- those rights has no grant for it.
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
            -- Other draws are taking the last rows of this leaf.
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
