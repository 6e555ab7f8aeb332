-- Return the current version of the blocklist, and the patterns that were blocked and lifted since `p_since` (0: all
-- blocked patterns), one per line. A worker calls this only when its heartbeat names a new version, so that 3,000
-- workers do not fetch 100,000 patterns for each change.
CREATE FUNCTION tracker.blocks(p_worker uuid, p_since bigint)
RETURNS TABLE (version bigint, blocked text, lifted text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
#variable_conflict use_column
BEGIN
    PERFORM tracker.require_class('download');
    PERFORM tracker.require_worker(p_worker);
    RETURN QUERY
    SELECT (SELECT coalesce(max(version), 0) FROM tracker.block),
           coalesce(string_agg(pattern, E'\n') FILTER (WHERE NOT block.lifted), ''),
           coalesce(string_agg(pattern, E'\n') FILTER (WHERE block.lifted), '')
    FROM tracker.block
    WHERE block.version > p_since AND NOT (block.lifted AND p_since = 0);
END
$$;
