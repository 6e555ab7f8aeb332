-- Return the workers whose leases may be taken over: their heartbeat is older than a lease, or they made no progress
-- for too long.
CREATE FUNCTION tracker.stale_workers(p_queue tracker.queue) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
    SELECT worker_id FROM tracker.worker
    WHERE kind = p_queue AND state <> 'gone'
      AND (seen_at < now() - make_interval(secs => (SELECT tracker.setting('lease_seconds'))::float8)
           OR progressed_at < now() - make_interval(secs => (SELECT tracker.setting('stall_seconds'))::float8))
$$;
