-- The only statement that leases jobs: it takes back the jobs of stale workers, then leases ready jobs, at most p_want
-- in total. The calling worker counts as alive, however old its last heartbeat is, so its own jobs are not taken back.
-- A claim counts as progress only for a worker that holds nothing; otherwise a job that it has forgotten would stay
-- leased for ever. Called only by functions of this schema.
CREATE FUNCTION tracker.lease_jobs(
    p_worker uuid, p_request uuid, p_queue tracker.queue, p_slot int, p_want int
) RETURNS SETOF tracker.job
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    PERFORM tracker.take_back(p_queue, p_slot, ARRAY(SELECT stale FROM tracker.stale_workers(p_queue) AS stale
                                                     WHERE stale <> p_worker));
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
        UPDATE tracker.worker
        SET seen_at = now(),
            progressed_at = CASE WHEN EXISTS (SELECT FROM claimed) OR NOT EXISTS (
                SELECT FROM tracker.job WHERE job.worker_id = p_worker AND job.state = 'leased'
            ) THEN now() ELSE progressed_at END
        WHERE worker_id = p_worker
    )
    SELECT * FROM claimed ORDER BY job_id;
END
$$;
