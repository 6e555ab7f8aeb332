-- Add a batch's counts of hosts to its worker: how many it asked, and how many refused it. Older counts lose weight
-- with a half-life of one hour, so the numbers describe the last hour or two. p_hosts: {"asked": n, "refused": n}, or
-- null. Called only by functions of this schema.
CREATE FUNCTION tracker.count_hosts(p_worker uuid, p_hosts jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    asked int := least(greatest((p_hosts ->> 'asked')::int, 0), 1000000);
    refused int := least(greatest((p_hosts ->> 'refused')::int, 0), asked);
BEGIN
    IF asked > 0 THEN
        UPDATE tracker.worker
        SET (hosts_asked, hosts_refused, hosts_counted_at) = (
            SELECT hosts_asked * kept + asked, hosts_refused * kept + refused, now()
            -- 0.5^1000 fits into a float8; much larger exponents raise an underflow
            FROM (SELECT 0.5 ^ least(extract(epoch FROM now() - hosts_counted_at)::float8 / 3600, 1000)) AS faded (kept))
        WHERE worker_id = p_worker;
    END IF;
END
$$;
