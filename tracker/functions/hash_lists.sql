-- Return the files of the hash lists in force: no worker may keep the pictures that they list. Called before each job.
CREATE FUNCTION tracker.hash_lists(p_worker uuid) RETURNS TABLE (path text, sha256 text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    PERFORM tracker.require_worker(p_worker);
    RETURN QUERY SELECT path, sha256 FROM tracker.hash_list ORDER BY path;
END
$$;
