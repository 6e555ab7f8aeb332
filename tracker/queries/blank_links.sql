-- Blank links at their places, unless others lie there now; they stay in the count, and end as blocked.
UPDATE ONLY tracker.{relation} AS link SET url = '', text = '', language = NULL, extra = ''
FROM unnest(%(places)s::text[], %(urls)s::text[]) AS denied (place, url)
WHERE link.ctid = denied.place::tid AND link.url = denied.url
