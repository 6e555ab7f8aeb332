-- Write off deleted tars, and subtract their bytes and samples in the ledger; each tar only once.
WITH gone AS MATERIALIZED (
    UPDATE tracker.manifest SET tar_deleted_at = now() WHERE output_id = ANY (%(ids)s) AND tar_deleted_at IS NULL
    RETURNING run_id, job_id, tar_bytes, samples
), booked AS (
    INSERT INTO tracker.ledger (run_id, job_id, account, label, n)
    SELECT run_id, job_id, 'stored', entry.label, entry.n
    FROM gone, LATERAL (VALUES ('bytes', -tar_bytes), ('samples', -samples)) AS entry (label, n)
)
SELECT count(*) AS shards, coalesce(sum(tar_bytes), 0)::bigint AS bytes FROM gone
