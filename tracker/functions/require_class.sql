-- Refuse a login whose class is not the queue's. Members of the owner role (the admin, the embedded server) may do
-- everything.
CREATE FUNCTION tracker.require_class(p_queue tracker.queue) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
BEGIN
    IF session_user = 'shoal_' || p_queue OR pg_has_role(session_user, 'shoal_owner', 'MEMBER') THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'the login % may not work on queue %', session_user, p_queue
        USING ERRCODE = 'SH003', HINT = 'use the login of the worker''s own class';
END
$$;
