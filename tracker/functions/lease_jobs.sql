-- The one claim statement: take over what stale workers hold, then take what is ready, at most p_want jobs in all.
-- A taken-over job that has used up its attempts is dead instead. Only functions of this schema call this one.
CREATE FUNCTION tracker.lease_jobs(
    p_worker uuid, p_request uuid, p_queue tracker.queue, p_slot int, p_want int
) RETURNS SETOF tracker.job
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    WITH expired AS MATERIALIZED (
        SELECT job_id FROM tracker.job
        WHERE state = 'leased' AND queue = p_queue AND slot = p_slot
          AND worker_id = ANY (ARRAY(SELECT tracker.stale_workers(p_queue)))
        FOR UPDATE SKIP LOCKED
    ), ended AS (
        UPDATE tracker.lease SET ending = 'taken_over', ended_at = now()
        WHERE ending IS NULL AND job_id = ANY (ARRAY(SELECT job_id FROM expired))
    )
    UPDATE tracker.job
    SET state = (CASE WHEN attempt >= tracker.setting('max_attempts') THEN 'dead' ELSE 'ready' END)::tracker.job_state,
        finished_at = CASE WHEN attempt >= tracker.setting('max_attempts') THEN now() END,
        error = 'the lease expired: the worker died, was cut off or stood still',
        worker_id = NULL, lease = NULL, leased_at = NULL
    WHERE job_id = ANY (ARRAY(SELECT job_id FROM expired));

    RETURN QUERY
    WITH ready AS MATERIALIZED (
        SELECT job_id FROM tracker.job
        WHERE state = 'ready' AND queue = p_queue AND slot = p_slot AND ready_at <= now()
        ORDER BY priority DESC, job_id
        LIMIT p_want
        FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE tracker.job
        SET state = 'leased', attempt = attempt + 1, worker_id = p_worker, lease = gen_random_uuid(), leased_at = now()
        WHERE job_id = ANY (ARRAY(SELECT job_id FROM ready))
        RETURNING *
    ), granted AS (
        INSERT INTO tracker.lease (lease, job_id, worker_id, request)
        SELECT lease, job_id, p_worker, p_request FROM claimed
    ), moved AS (
        UPDATE tracker.worker SET progressed_at = now(), seen_at = now() WHERE worker_id = p_worker
    )
    SELECT * FROM claimed ORDER BY job_id;
END
$$;
