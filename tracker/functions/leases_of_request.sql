-- Return the jobs that this request leased before, for a claim whose reply was lost; nothing for a new request.
-- Raise if a lease of the request has ended or was taken over: the worker must not work on it.
CREATE FUNCTION tracker.leases_of_request(p_worker uuid, p_request uuid) RETURNS SETOF tracker.job
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    IF EXISTS (SELECT FROM tracker.lease WHERE request = p_request AND (ending IS NOT NULL OR worker_id <> p_worker)) THEN
        RAISE EXCEPTION 'what request % leased has ended or was taken over', p_request
            USING ERRCODE = 'SH001', HINT = 'claim again with another request';
    END IF;
    RETURN QUERY
    SELECT job.* FROM tracker.job JOIN tracker.lease USING (job_id, lease)
    WHERE lease.request = p_request ORDER BY job_id;
END
$$;
