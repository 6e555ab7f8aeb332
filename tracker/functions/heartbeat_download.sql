-- Heartbeat of a download worker: it reports how hosts behaved, and gets what the fleet has learned since p_since
-- (null: everything). If the reply was lost and the request is repeated, it is answered again, but its refusals are
-- counted only once.
--
-- p_report: {"refused": {host: [n, seconds]}, "well": [host], "probes": [host]}. "well" are hosts that answered this
-- worker's probe; "probes" are hosts whose rest is over and for which it has links. The answer for each of these:
-- "probe" (this worker may send the first request), "free" (every worker may send requests), or the seconds to wait for
-- the worker that has the probe. rests: {host: [seconds left, refusals]}; 0 refusals means that the rest has ended.
-- `since` is a time: a rest written within 5 s before it is reported again, because its transaction may have committed
-- after this one read. Rejected: a counter of changes, because all reports would wait for its row.
CREATE FUNCTION tracker.heartbeat_download(
    p_worker uuid, p_request uuid, p_progress bigint, p_since timestamptz, p_report jsonb
) RETURNS TABLE (state tracker.worker_state, blocks bigint, since timestamptz, rests jsonb, probes jsonb)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    grace interval;
    well text[];
    wanted text[];
BEGIN
    PERFORM tracker.require_class('download');
    state := tracker.heartbeat(p_worker, p_progress);
    -- Lock the hosts of all three lists in the same order, so that two heartbeats cannot deadlock.
    PERFORM FROM tracker.resting
    WHERE host = ANY (ARRAY(SELECT jsonb_object_keys(p_report -> 'refused'))
                      || ARRAY(SELECT jsonb_array_elements_text(p_report -> 'well'))
                      || ARRAY(SELECT jsonb_array_elements_text(p_report -> 'probes')))
    ORDER BY host FOR UPDATE;
    IF p_report -> 'refused' <> '{}' THEN
        -- The heartbeat has locked the worker's row, so if a request arrives twice, the second sees the first.
        UPDATE tracker.worker SET reported = p_request WHERE worker_id = p_worker AND reported IS DISTINCT FROM p_request;
        IF FOUND THEN
            PERFORM tracker.note_refusals(p_report -> 'refused');
        END IF;
    END IF;
    IF p_report -> 'well' <> '[]' THEN
        well := ARRAY(SELECT jsonb_array_elements_text(p_report -> 'well') LIMIT 100);
        UPDATE tracker.resting
        SET refusals = 0, until = now(), changed_at = clock_timestamp(), prober = NULL, probe_until = NULL
        WHERE host = ANY (well) AND prober = p_worker;
    END IF;
    IF p_report -> 'probes' <> '[]' THEN
        grace := make_interval(secs => tracker.setting('rest_grace_seconds')::float8);
        wanted := ARRAY(SELECT jsonb_array_elements_text(p_report -> 'probes') LIMIT 100);
        UPDATE tracker.resting SET prober = p_worker, probe_until = now() + grace
        WHERE host = ANY (wanted) AND refusals > 0 AND until <= now()
          AND (probe_until IS NULL OR probe_until <= now() OR prober = p_worker);
        SELECT jsonb_object_agg(asked.host, CASE
                   WHEN resting.host IS NULL OR resting.refusals = 0 THEN '"free"'
                   WHEN resting.until <= now() AND resting.prober = p_worker THEN '"probe"'
                   ELSE to_jsonb(extract(epoch FROM greatest(resting.until, resting.probe_until) - now())::float8) END)
        INTO probes
        FROM unnest(wanted) AS asked (host) LEFT JOIN tracker.resting USING (host);
    END IF;
    blocks := (SELECT coalesce(max(version), 0) FROM tracker.block);
    since := clock_timestamp();
    IF p_since IS NULL THEN
        SELECT jsonb_object_agg(host, jsonb_build_array(extract(epoch FROM until - now())::float8, refusals))
        INTO rests FROM tracker.resting WHERE refusals > 0;
    ELSE
        SELECT jsonb_object_agg(host, jsonb_build_array(extract(epoch FROM until - now())::float8, refusals))
        INTO rests FROM tracker.resting WHERE changed_at > p_since - interval '5 seconds';
    END IF;
    RETURN NEXT;
END
$$;
