-- The one claim statement: take back what stale workers hold, then lease what is ready, at most p_want jobs in all.
-- Only functions of this schema call this one.
CREATE FUNCTION tracker.lease_jobs(
    p_worker uuid, p_request uuid, p_queue tracker.queue, p_slot int, p_want int
) RETURNS SETOF tracker.job
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    PERFORM tracker.take_back(p_queue, p_slot, ARRAY(SELECT tracker.stale_workers(p_queue)));
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
