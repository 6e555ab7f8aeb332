-- Return the tracker's records of the outputs with these stems and leases; a lease's job must be the one
-- in the file's name.
SELECT path AS name, CASE WHEN tar_deleted_at IS NULL THEN 'listed' ELSE 'deleted' END AS why
FROM tracker.manifest WHERE path = ANY (%(stems)s)
UNION ALL
SELECT lease.lease::text,
       CASE WHEN job.state = 'leased' AND job.lease = lease.lease THEN 'live' ELSE 'ended ' || lease.job_id END
FROM tracker.lease JOIN tracker.job USING (job_id) WHERE lease.lease = ANY (%(leases)s::uuid[])
