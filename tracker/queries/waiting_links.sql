-- The links of one table that wait, with their places.
COPY (SELECT ctid, url, text FROM ONLY tracker.{relation} WHERE url <> '') TO STDOUT
