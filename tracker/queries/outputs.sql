-- Return all outputs in the store; a file that is not listed here is not an output.
SELECT manifest.output_id, manifest.kind::text AS kind, run.name AS run, manifest.path, manifest.job_id AS job,
       manifest.lease::text AS lease, manifest.subset::text AS subset, manifest.rows, manifest.samples,
       manifest.bytes, manifest.created_at, manifest.tar_bytes, manifest.tar_deleting_at AS tar_deleted_at,
       CASE WHEN manifest.kind = 'embeddings'
            THEN (SELECT payload ->> 'source' FROM tracker.job WHERE job_id = manifest.job_id) END AS source
FROM tracker.manifest JOIN tracker.run USING (run_id)
ORDER BY manifest.output_id
