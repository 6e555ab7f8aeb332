-- Let hosts that refused requests rest, for the whole fleet. p_refusals: {host: [refusals, Retry-After in seconds or
-- null]}. At most 100 hosts are recorded; a host that continues to refuse is reported again.
--
-- The first refusal causes a rest of rest_seconds; each refused probe doubles it. Refusals reported by workers that did
-- not know of the rest double it too, up to the fourth, so that twenty workers that contact a host at once send it no
-- more requests over time than one worker. Further refusals add rest_seconds each, so that a short overload does not
-- cause a rest of an hour. The sum is bounded by rest_most_seconds from now; a Retry-After of the host is honoured up
-- to a day. Called only by functions of this schema.
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
    ORDER BY told.host  -- a fixed order, so that two reports cannot deadlock
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
