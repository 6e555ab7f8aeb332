-- Settle the run's recipe, once: the first filter worker spells out what was left open (defaults, the checksums of the
-- models) and may change nothing that was said; later ones must match it to the letter.
CREATE FUNCTION tracker.settle_recipe(p_worker uuid, p_run_id int, p_recipe jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    known tracker.run;
BEGIN
    PERFORM tracker.require_worker(p_worker);
    SELECT * INTO STRICT known FROM tracker.run WHERE run_id = p_run_id FOR UPDATE;
    IF known.settled_at IS NULL AND p_recipe @> jsonb_strip_nulls(known.recipe) THEN
        UPDATE tracker.run SET recipe = p_recipe, settled_at = now() WHERE run_id = p_run_id;
    ELSIF known.recipe <> p_recipe THEN
        RAISE EXCEPTION 'the recipe of run % is settled, and this worker would work by another', p_run_id
            USING ERRCODE = 'SH002', HINT = 'give the worker the models and the version that the run was settled with';
    END IF;
    RETURN p_recipe;
END
$$;
