-- Discard the units of a build that are not leased.
UPDATE tracker.job SET state = 'discarded', finished_at = now()
WHERE queue = %(queue)s::tracker.queue AND state IN ('ready', 'dead') AND payload ->> 'build' = %(build_id)s::text
