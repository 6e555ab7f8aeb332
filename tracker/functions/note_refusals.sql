-- Let hosts that have refused us rest, for the whole fleet. p_refusals: {host: [refusals, Retry-After in seconds or
-- null]}; at most 100 hosts, the rest is dropped: a host that goes on refusing is told of again.
--
-- Each refusal costs a host's silence of rest_seconds, whoever met it: so many workers that were refused at once send
-- no more over time than one would. A refusal after the rest (the probe's) doubles it. All that up to
-- rest_most_seconds from now; what the host itself asked for is kept up to a day. Only functions of this schema call it.
CREATE FUNCTION tracker.note_refusals(p_refusals jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    step float8 := tracker.setting('rest_seconds');
    most float8 := greatest(step, tracker.setting('rest_most_seconds'));
BEGIN
    INSERT INTO tracker.resting AS known (host, until, refusals, changed_at)
    SELECT told.host, now() + make_interval(secs => greatest(told.wish, least(most, told.n * step))), 1, clock_timestamp()
    FROM (
        SELECT lower(key) AS host, least(greatest((value ->> 0)::int, 1), 1000) AS n,
               least(greatest(coalesce((value ->> 1)::float8, 0), 0), 86400) AS wish
        FROM jsonb_each(p_refusals) WHERE octet_length(key) BETWEEN 1 AND 253 AND key = lower(key) LIMIT 100
    ) AS told
    ORDER BY told.host  -- one order for all, so that two reports do not wait for each other
    ON CONFLICT (host) DO UPDATE SET
        (until, refusals, changed_at, prober, probe_until) = (
            SELECT greatest(
                       now() + make_interval(secs => wish),
                       CASE WHEN is_same THEN least(greatest(now() + make_interval(secs => most), known.until),
                                                    known.until + make_interval(secs => n * step))
                            ELSE now() + make_interval(secs => least(most, step * 2 ^ least(known.refusals, 30) + (n - 1) * step))
                       END),
                   least(known.refusals, 1000000) + CASE WHEN is_same THEN 0 ELSE 1 END,
                   clock_timestamp(), NULL::uuid, NULL::timestamptz
            FROM (
                SELECT known.until > now() AND known.refusals > 0 AS is_same,
                       least(greatest((p_refusals -> excluded.host ->> 0)::int, 1), 1000) AS n,
                       least(greatest(coalesce((p_refusals -> excluded.host ->> 1)::float8, 0), 0), 86400) AS wish
            ) AS met
        );
END
$$;
