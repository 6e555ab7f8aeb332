-- Complete a unit of the tagging of a release; see complete_unit.sql for the result.
CREATE FUNCTION tracker.complete_tag(p_job bigint, p_lease uuid, p_result jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
    SELECT tracker.complete_unit('tag', p_job, p_lease, p_result)
$$;
