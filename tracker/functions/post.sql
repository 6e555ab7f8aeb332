-- Add an entry to the ledger, unless it is zero.
CREATE FUNCTION tracker.post(
    p_run_id int, p_job bigint, p_account tracker.account, p_label text, p_subset tracker.subset, p_n bigint,
    p_leaf int DEFAULT NULL
) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
    INSERT INTO tracker.ledger (run_id, job_id, account, label, subset, leaf, n)
    SELECT p_run_id, p_job, p_account, p_label, p_subset, p_leaf, p_n WHERE p_n <> 0
$$;
