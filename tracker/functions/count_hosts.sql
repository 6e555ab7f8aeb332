-- Count a batch's hosts for its worker: how many it asked, how many refused it. What was counted before fades by half an
-- hour, so that the two numbers speak of the last hour or two. p_hosts: {"asked": n, "refused": n}; null from workers
-- that do not count. Only functions of this schema call it.
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
            -- 2^-1000 is still a number, the next thousand is an error
            FROM (SELECT 0.5 ^ least(extract(epoch FROM now() - hosts_counted_at)::float8 / 3600, 1000)) AS faded (kept))
        WHERE worker_id = p_worker;
    END IF;
END
$$;
