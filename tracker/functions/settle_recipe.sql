-- Settle a run's recipe: the first worker of a class that reads a section fills in the values that are missing in it
-- (defaults, checksums of models). Settled values cannot be changed. A worker with another recipe is refused. A class
-- settles only sections that it reads, so a stolen login of extract cannot change the filter's rules. A recipe has no
-- arrays, so containment (<@) compares a section value by value.
CREATE FUNCTION tracker.settle_recipe(p_worker uuid, p_run_id int, p_recipe jsonb) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    asking tracker.worker := tracker.require_worker(p_worker);
    reads text[] := CASE asking.kind
        WHEN 'extract' THEN '{text,language,page_opt_outs}'
        WHEN 'ingest' THEN '{language,extra}'
        WHEN 'download' THEN '{image,extra,sha256_column}'
        WHEN 'filter' THEN '{version,filter,models,embeddings,tags,safety}'
        ELSE '{}' END;
    known jsonb;
    settled jsonb;
BEGIN
    SELECT recipe INTO STRICT known FROM tracker.run WHERE run_id = p_run_id FOR NO KEY UPDATE;
    IF EXISTS (SELECT FROM jsonb_each(p_recipe) AS said
               WHERE NOT (jsonb_strip_nulls(said.value) <@ (known -> said.key)
                          OR jsonb_strip_nulls(known -> said.key) <@ said.value)) THEN
        RAISE EXCEPTION 'the recipe of run % is not the one that this worker would work by', p_run_id
            USING ERRCODE = 'SH002', HINT = 'give the worker the models and the version that the run was begun with';
    END IF;
    SELECT known || coalesce(jsonb_object_agg(said.key, said.value), '{}') INTO settled
    FROM jsonb_each(p_recipe) AS said
    WHERE said.key = ANY (reads) AND jsonb_strip_nulls(said.value) <@ (known -> said.key) IS NOT TRUE;
    IF settled <> known THEN
        UPDATE tracker.run SET recipe = settled WHERE run_id = p_run_id;
    END IF;
    RETURN settled;
END
$$;
