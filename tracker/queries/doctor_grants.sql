-- Return the privileges of the class logins on Shoal's functions and tables, the database, and other roles.
WITH login AS (
    SELECT oid, rolname FROM pg_roles WHERE rolname = ANY (%(logins)s)
)
SELECT rolname AS login, 'EXECUTE' AS privilege, proname::text AS thing
FROM login, pg_proc
WHERE pronamespace = 'tracker'::regnamespace AND has_function_privilege(login.oid, pg_proc.oid, 'EXECUTE')
UNION
SELECT rolname, privilege, relname::text
FROM login, pg_class,
     unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege
WHERE relnamespace = 'tracker'::regnamespace AND relkind IN ('r', 'p', 'v', 'm')
  AND has_table_privilege(login.oid, pg_class.oid, privilege)
  -- ingest inserts rows into the leaves of the pool
  AND NOT (rolname = 'shoal_ingest' AND privilege = 'INSERT' AND relname IN (SELECT relation FROM tracker.leaf))
UNION
SELECT rolname, privilege, 'the database'
FROM login, unnest(ARRAY['TEMPORARY', 'CREATE']) AS privilege
WHERE has_database_privilege(login.oid, current_database(), privilege)
UNION
SELECT rolname, 'MEMBER', role.name
FROM login, unnest(ARRAY['shoal_owner', 'pg_read_all_data', 'pg_write_all_data']) AS role (name)
WHERE pg_has_role(login.oid, role.name, 'MEMBER')
