-- End a job under its lease, and count its rows in and out. Return true if the job ended now. Return false if it had
-- ended before under the same lease (the reply was lost); the caller must then change nothing. Raise if the lease was
-- taken over, so that the whole transaction is rolled back.
CREATE FUNCTION tracker.finish(
    p_queue tracker.queue, p_job bigint, p_lease uuid, p_result jsonb, p_rows_in bigint, p_rows_out bigint
) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    done tracker.job;
    -- Reading a link list is counted separately, because it would make ingest's rate too low. Its rows come in again
    -- with its packs.
    is_list boolean;
    label text;
BEGIN
    PERFORM tracker.require_class(p_queue);
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
    is_list := done.payload ? 'list';
    label := CASE WHEN is_list THEN 'list' ELSE p_queue::text END;
    UPDATE tracker.lease
    SET ending = 'completed', ended_at = now(),
        rows_in = CASE WHEN NOT is_list THEN p_rows_in END, rows_out = CASE WHEN NOT is_list THEN p_rows_out END
    WHERE lease = p_lease;
    PERFORM tracker.post(done.run_id, p_job, 'jobs', p_queue::text, NULL, 1);
    PERFORM tracker.post(done.run_id, p_job, 'rows_in', label, NULL, p_rows_in);
    PERFORM tracker.post(done.run_id, p_job, 'rows_out', label, NULL, p_rows_out);
    PERFORM tracker.post(done.run_id, p_job, 'milliseconds', label, NULL,
                         (1000 * extract(epoch FROM clock_timestamp() - done.leased_at))::bigint);
    RETURN true;
END
$$;
