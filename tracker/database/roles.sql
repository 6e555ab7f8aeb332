-- The roles, which belong to the whole server: the owner, and one login for each class of worker. A login has no
-- password until the admin sets one, so that it cannot be used over the network before.
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
            -- A worker's longest statement is ingest's COPY of some packs; all others end in well under a second.
            EXECUTE format('ALTER ROLE %I SET statement_timeout = %L', 'shoal_' || class,
                           CASE class WHEN 'ingest' THEN '10min' ELSE '1min' END);
            EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', 'shoal_' || class, '1min');
        END IF;
    END LOOP;
    -- Also for one who has made the role: from PostgreSQL 16 on, that gives the right to grant it, not to use it.
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT shoal_owner TO %I', current_user);
    END IF;
    EXECUTE format('REVOKE TEMPORARY, CREATE ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CREATE ON DATABASE %I TO shoal_owner', current_database());
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
END
$$;

-- Large objects can be made, and advisory locks held, by anyone who may call these; only a superuser can forbid it.
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
