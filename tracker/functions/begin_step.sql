-- Begin the next step of a build that has units: insert a job for each. After the last step the build is finished.
-- The caller has locked the build's row, so a step begins once. Called by the admin's command for the first step, and
-- by complete_unit for the others.
CREATE FUNCTION tracker.begin_step(p_build int, p_priority smallint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    build tracker.build;
    place int;
    step_name text;
    units int;
BEGIN
    SELECT * INTO STRICT build FROM tracker.build WHERE build_id = p_build FOR NO KEY UPDATE;
    SELECT ordinality - 1, value ->> 0, (value ->> 1)::int INTO place, step_name, units
    FROM jsonb_array_elements(build.plan) WITH ORDINALITY
    WHERE ordinality - 1 > build.step AND (value ->> 1)::int > 0
    ORDER BY ordinality LIMIT 1;
    IF NOT FOUND THEN
        UPDATE tracker.build SET step = jsonb_array_length(plan), finished_at = now() WHERE build_id = p_build;
        RETURN;
    END IF;
    UPDATE tracker.build SET step = place, units_left = units WHERE build_id = p_build;
    INSERT INTO tracker.job (queue, run_id, priority, payload)
    SELECT build.queue, build.run_id, p_priority,
           jsonb_build_object('build', p_build, 'step', step_name, 'number', number,
                              'unit', format('%s %s %s', p_build, step_name, number))
    FROM generate_series(0, units - 1) AS number;
END
$$;
