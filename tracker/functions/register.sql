-- Register a worker, and return the settings. A class's login must show the token of an enrolled machine that is not
-- revoked.
CREATE FUNCTION tracker.register(
    p_kind tracker.queue, p_host text, p_pid int, p_version text, p_protocol int, p_token text DEFAULT NULL
) RETURNS TABLE (worker_id uuid, settings jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    known_machine text;
    oldest int := tracker.setting('oldest_protocol');
    newest int := tracker.setting('newest_protocol');
BEGIN
    PERFORM tracker.require_class(p_kind);
    IF p_protocol NOT BETWEEN oldest AND newest THEN
        RAISE EXCEPTION 'protocol % is not spoken here (% to % are)', p_protocol, oldest, newest
            USING ERRCODE = 'SH003', HINT = 'upgrade the worker, or run tracker migrate if the worker is the newer one';
    END IF;
    IF p_token IS NOT NULL THEN
        SELECT name INTO known_machine FROM tracker.machine
        WHERE token_sha256 = sha256(convert_to(p_token, 'UTF8')) AND kind = p_kind AND revoked_at IS NULL;
    END IF;
    IF known_machine IS NULL AND (p_token IS NOT NULL OR NOT pg_has_role(session_user, 'shoal_owner', 'MEMBER')) THEN
        RAISE EXCEPTION 'this machine is not enrolled for queue %', p_kind
            USING ERRCODE = 'SH003', HINT = 'enroll it with tracker enroll and set SHOAL_TOKEN';
    END IF;
    RETURN QUERY
    INSERT INTO tracker.worker (kind, host, pid, version, protocol, machine)
    VALUES (p_kind, p_host, p_pid, p_version, p_protocol, known_machine)
    RETURNING worker.worker_id, (SELECT jsonb_object_agg(name, value) FROM tracker.setting);
END
$$;
