-- End a job under its lease. True: ended now. False: it had ended before under the same lease (the reply was lost), and
-- the caller changes nothing. A lease that was taken over raises, so that a transaction that did more cannot commit.
CREATE FUNCTION tracker.finish(p_queue tracker.queue, p_job bigint, p_lease uuid, p_result jsonb)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    done tracker.job;
BEGIN
    PERFORM tracker.allow(p_queue);
    UPDATE tracker.job SET state = 'done', finished_at = now(), result = p_result, error = NULL
    WHERE job_id = p_job AND lease = p_lease AND state = 'leased' AND queue = p_queue
    RETURNING * INTO done;
    IF NOT FOUND THEN
        IF EXISTS (SELECT FROM tracker.job
                   WHERE job_id = p_job AND lease = p_lease AND state = 'done' AND queue = p_queue) THEN
            RETURN false;
        END IF;
        RAISE EXCEPTION 'job % is no longer held under lease %', p_job, p_lease
            USING ERRCODE = 'SH001', HINT = 'drop the work: another worker has it';
    END IF;
    PERFORM tracker.require_worker(done.worker_id);
    UPDATE tracker.lease SET ending = 'completed', ended_at = now() WHERE lease = p_lease;
    PERFORM tracker.post(done.run_id, p_job, 'jobs', p_queue::text, NULL, 1);
    -- Reading a list is told apart, as its rows are: ingest's rate would else be too low by the time it took.
    PERFORM tracker.post(done.run_id, p_job, 'milliseconds',
                         CASE WHEN done.payload ? 'list' THEN 'list' ELSE p_queue::text END, NULL,
                         (1000 * extract(epoch FROM clock_timestamp() - done.leased_at))::bigint);
    RETURN true;
END
$$;
