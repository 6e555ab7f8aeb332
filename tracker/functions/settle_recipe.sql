-- Settle the run's recipe: the first worker of a kind spells out what was left open (defaults; for filter the checksums
-- of the models), and none may change what was said before it. Whoever would work by another recipe is refused.
-- A recipe has no arrays, so that containment compares it value by value.
CREATE FUNCTION tracker.settle_recipe(p_worker uuid, p_run_id int, p_recipe jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    known jsonb;
BEGIN
    PERFORM tracker.require_worker(p_worker);
    SELECT recipe INTO STRICT known FROM tracker.run WHERE run_id = p_run_id FOR NO KEY UPDATE;
    IF jsonb_strip_nulls(p_recipe) <@ known THEN
        RETURN known;
    ELSIF jsonb_strip_nulls(known) <@ p_recipe THEN
        UPDATE tracker.run SET recipe = p_recipe WHERE run_id = p_run_id;
        RETURN p_recipe;
    END IF;
    RAISE EXCEPTION 'the recipe of run % is not the one that this worker would work by', p_run_id
        USING ERRCODE = 'SH002', HINT = 'give the worker the models and the version that the run was begun with';
END
$$;
