-- Return whether this login has the rights of the owner, a role that does not exist before the first migration.
SELECT session_user AS login,
       coalesce((SELECT pg_has_role(oid, 'USAGE') FROM pg_roles WHERE rolname = 'shoal_owner'), false) AS may
