-- The roles, which belong to the whole server: the owner, and one login for each class of worker. A login has no
-- password until the admin sets one, so until then it cannot be used over the network.
DO $$
DECLARE
    class text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shoal_owner') THEN
        CREATE ROLE shoal_owner NOLOGIN;
    END IF;
    FOREACH class IN ARRAY ARRAY[{queues}] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shoal_' || class) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', 'shoal_' || class);
            -- The longest statement of a worker is ingest's COPY of some packs; all others take well under a second.
            EXECUTE format('ALTER ROLE %I SET statement_timeout = %L', 'shoal_' || class,
                           CASE class WHEN 'ingest' THEN '10min' ELSE '1min' END);
            EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', 'shoal_' || class, '1min');
        END IF;
    END LOOP;
    -- This is needed even by the login that created the role: since PostgreSQL 16, creating a role gives the right to
    -- grant it, not to use it.
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT shoal_owner TO %I', current_user);
    END IF;
    EXECUTE format('REVOKE TEMPORARY, CREATE ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CREATE ON DATABASE %I TO shoal_owner', current_database());
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
END
$$;

-- Anyone who may call these functions can create large objects and hold advisory locks; only a superuser can revoke
-- that.
DO $$
DECLARE
    maker record;
BEGIN
    IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        FOR maker IN
            SELECT oid::regprocedure AS name FROM pg_proc
            WHERE pronamespace = 'pg_catalog'::regnamespace
              AND (proname LIKE 'pg\_%advisory\_%' OR proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_put', 'lowrite', 'lo_open', 'lo_get',
                              'loread', 'lo_unlink', 'lo_truncate', 'lo_truncate64'))
        LOOP
            EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', maker.name);
        END LOOP;
        GRANT EXECUTE ON FUNCTION pg_try_advisory_xact_lock(int, int) TO shoal_owner;  -- for draw
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS tracker AUTHORIZATION shoal_owner;
ALTER DEFAULT PRIVILEGES FOR ROLE shoal_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
