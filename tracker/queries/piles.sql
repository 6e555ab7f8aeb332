-- Return the piles of each queue, with their marks.
SELECT queue::text AS queue, what, amount::bigint AS amount, high::bigint AS high, resume::bigint AS resume
FROM unnest(enum_range(NULL::tracker.queue)) AS queue, tracker.watermarks(queue)
