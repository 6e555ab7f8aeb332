-- Return which of these files are hash lists in force, or were until an hour ago (a worker may be loading
-- them); and which of them this tracker wrote, in force or not.
SELECT path AS name, 'listed' AS why FROM tracker.hash_list WHERE path = ANY (%(paths)s)
UNION ALL
SELECT before ->> 'path', CASE WHEN changed_at > now() - interval '1 hour' THEN 'listed' ELSE 'known' END
FROM tracker.change WHERE command = 'hash-lists remove' AND before ->> 'path' = ANY (%(paths)s)
UNION ALL
SELECT subject, 'known' FROM tracker.change WHERE command = 'hash-lists write' AND subject = ANY (%(paths)s)
