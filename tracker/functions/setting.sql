-- Return a setting as a number. An unknown name raises, so that a misspelt name does not count as zero.
CREATE FUNCTION tracker.setting(p_name text) RETURNS numeric
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    found_value numeric;
BEGIN
    SELECT (value #>> '{}')::numeric INTO STRICT found_value FROM tracker.setting WHERE name = p_name;
    RETURN found_value;
END
$$;
