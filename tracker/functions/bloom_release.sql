-- Free the worker's slot, so that another worker can take it.
CREATE FUNCTION tracker.bloom_release(p_worker uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
BEGIN
    PERFORM tracker.require_worker(p_worker);
    UPDATE tracker.bloom SET holder = NULL WHERE holder = p_worker;
END
$$;
