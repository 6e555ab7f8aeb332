-- End the leases that these workers hold on a slot of a queue. The jobs are ready for others, or dead if they have no
-- attempt left. Locked jobs are skipped, because they are being completed right now.
CREATE FUNCTION tracker.take_back(p_queue tracker.queue, p_slot int, p_workers uuid[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    most_attempts int := tracker.setting('max_attempts');
BEGIN
    WITH expired AS MATERIALIZED (
        SELECT job_id FROM tracker.job
        WHERE state = 'leased' AND queue = p_queue AND slot = p_slot AND worker_id = ANY (p_workers)
        FOR UPDATE SKIP LOCKED
    ), ended AS (
        UPDATE tracker.lease SET ending = 'taken_over', ended_at = now()
        WHERE ending IS NULL AND job_id = ANY (ARRAY(SELECT job_id FROM expired))
    )
    UPDATE tracker.job
    SET state = (CASE WHEN attempt >= most_attempts THEN 'dead' ELSE 'ready' END)::tracker.job_state,
        finished_at = CASE WHEN attempt >= most_attempts THEN now() END,
        error = 'the lease expired: the worker died, was cut off or stood still',
        worker_id = NULL, lease = NULL, leased_at = NULL
    WHERE job_id = ANY (ARRAY(SELECT job_id FROM expired));
END
$$;
