"""The bounds beyond which the server is in trouble, for `tracker doctor`, `tracker status` and the status page."""

# Ingest's COPY of some packs may take 10 minutes, its login's limit; no worker's statement takes longer.
LONG_SECONDS, ENDLESS_SECONDS = 600.0, 3600.0
# A lease is a minute, by Postgres's clock alone; of others' clocks only certificates and signatures to S3 (15 minutes)
# depend, and readers of logs.
CLOCK_SECONDS = 5.0
# A leaf of 20M rows is vacuumed at 2 %; ten times that, and a million for small ones, is not keeping up.
DEAD_SHARE, DEAD_ROWS = 0.2, 1_000_000
# Postgres refuses to write at 2.1 billion; autovacuum's own emergency begins at 1.6 billion.
OLDEST_XID = 1_000_000_000
FULL_DISK = 0.9
BUSY_CONNECTIONS = 0.8
UNFOLDED_SECONDS = 600.0
