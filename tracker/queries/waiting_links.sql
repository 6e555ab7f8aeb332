-- Return the waiting links of one table, with their positions in it.
COPY (SELECT ctid, url, text FROM ONLY tracker.{relation} WHERE url <> '') TO STDOUT
