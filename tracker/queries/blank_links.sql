-- Blank links at their positions in the table, unless other rows are there by now. Blanked links are still counted, and
-- end as blocked.
UPDATE ONLY tracker.{relation} AS link SET url = '', text = '', language = NULL, extra = ''
FROM unnest(%(places)s::text[], %(urls)s::text[]) AS denied (place, url)
WHERE link.ctid = denied.place::tid AND link.url = denied.url
