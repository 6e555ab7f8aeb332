-- Let hosts that have refused us rest, for the whole fleet. p_refusals: {host: [refusals, Retry-After in seconds or
-- null]}; at most 100 hosts, the rest is dropped: a host that goes on refusing is told of again.
--
-- The first refusal costs a rest of rest_seconds; each refused probe doubles it. Workers that had not heard yet and are
-- refused during a rest double it too, up to the fourth refusal (so that twenty workers that came at once ask no more
-- over time than one would), and from then on add rest_seconds each: a moment's overload is no hour's rest. All that up
-- to rest_most_seconds from now; what the host itself asked for is kept up to a day. Only functions of this schema call it.
CREATE FUNCTION tracker.note_refusals(p_refusals jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    step float8 := tracker.setting('rest_seconds');
    most float8 := greatest(step, tracker.setting('rest_most_seconds'));
BEGIN
    INSERT INTO tracker.resting AS known (host, until, refusals, changed_at)
    SELECT told.host,
           now() + make_interval(secs => greatest(told.wish, least(most, step * greatest(told.n, 2 ^ (least(told.n, 4) - 1))))),
           least(told.n, 4), clock_timestamp()
    FROM (
        SELECT key AS host, least(greatest((value ->> 0)::int, 1), 1000) AS n,
               least(greatest(coalesce((value ->> 1)::float8, 0), 0), 86400) AS wish
        FROM jsonb_each(p_refusals) WHERE octet_length(key) BETWEEN 1 AND 253 AND key = lower(key) LIMIT 100
    ) AS told
    ORDER BY told.host  -- one order for all, so that two reports do not wait for each other
    ON CONFLICT (host) DO UPDATE SET
        (until, refusals, changed_at, prober, probe_until) = (
            SELECT greatest(
                       now() + make_interval(secs => wish),
                       CASE WHEN rests THEN
                           greatest(known.until, least(
                               now() + make_interval(secs => most),
                               greatest(known.until + make_interval(secs => n * step),
                                        now() + make_interval(secs => step * 2 ^ (least(count, 30) - 1)))))
                       ELSE now() + make_interval(secs => least(most, step * (2 ^ (least(count, 30) - 1) + n - 1)))
                       END),
                   count, clock_timestamp(), NULL::uuid, NULL::timestamptz
            FROM (SELECT known.until > now() AND known.refusals > 0 AS rests,
                         least(greatest((p_refusals -> excluded.host ->> 0)::int, 1), 1000) AS n,
                         least(greatest(coalesce((p_refusals -> excluded.host ->> 1)::float8, 0), 0), 86400) AS wish
                 ) AS met,
                 LATERAL (SELECT CASE WHEN rests THEN greatest(known.refusals, least(known.refusals + n, 4))
                                      ELSE least(known.refusals + 1, 1000000) END AS count) AS counted
        );
END
$$;
