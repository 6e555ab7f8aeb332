-- Complete a unit of an index over a release; see complete_unit.sql for the result.
CREATE FUNCTION tracker.complete_index(p_job bigint, p_lease uuid, p_result jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
    SELECT tracker.complete_unit('index', p_job, p_lease, p_result)
$$;
