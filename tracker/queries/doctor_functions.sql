-- The functions in the database.
SELECT proname AS name, prosrc AS body, prosecdef AS definer, proconfig AS config, pg_get_userbyid(proowner) AS owner
FROM pg_proc WHERE pronamespace = 'tracker'::regnamespace
