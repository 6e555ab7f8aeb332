-- Return whether the class logins have powers of an admin.
SELECT rolname AS name, rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls AS powers
FROM pg_roles WHERE rolname = ANY (%(logins)s)
