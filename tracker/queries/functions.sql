-- The functions in the database, with the signatures that tell them apart.
SELECT oid::int, proname, oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'tracker'::regnamespace
