-- Lease up to p_want jobs (at most 100) of a queue to a worker. The same request again returns the same leases. Return
-- no job while the queue is paused, held or at its limit, or while the worker drains. Ingest gets packs of the slot
-- that the worker holds. Download batches come from `draw` instead.
CREATE FUNCTION tracker.claim(p_worker uuid, p_request uuid, p_queue tracker.queue, p_want int DEFAULT 1)
RETURNS SETOF tracker.claimed
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    asking tracker.worker := tracker.require_worker(p_worker);
    held_slot int := 0;
BEGIN
    PERFORM tracker.require_class(p_queue);
    -- The same request can arrive twice, if its first connection was cut. The lock lets one pass after the other, so
    -- that both get the same lease.
    SELECT * INTO asking FROM tracker.worker WHERE worker_id = p_worker FOR NO KEY UPDATE;
    IF asking.kind <> p_queue OR p_queue = 'download' THEN
        RAISE EXCEPTION 'a % worker may not claim from queue %', asking.kind, p_queue USING ERRCODE = 'SH003';
    END IF;
    RETURN QUERY SELECT seen.* FROM tracker.leases_of_request(p_worker, p_request) AS job, tracker.claimed_job(job) AS seen;
    IF FOUND OR asking.state <> 'active' OR tracker.is_closed(p_queue) THEN
        RETURN;
    END IF;
    IF p_queue = 'ingest' THEN
        SELECT slot INTO held_slot FROM tracker.bloom WHERE holder = p_worker;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END IF;
    RETURN QUERY
    SELECT seen.*
    FROM tracker.lease_jobs(p_worker, p_request, p_queue, held_slot, least(p_want, 100, tracker.leases_left(p_queue))) AS job,
         tracker.claimed_job(job) AS seen;
END
$$;
