-- Return the functions in the database with their signatures, which distinguish overloads.
SELECT oid::int, proname, oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'tracker'::regnamespace
