"""The bounds beyond which the database server counts as faulty, for `tracker doctor`, `tracker status` and the status
page.
"""

# Ingest's COPY of some packs may take 10 minutes, its login's limit; no worker's statement takes longer.
LONG_SECONDS, ENDLESS_SECONDS = 600.0, 3600.0
# A lease lasts a minute, and depends only on Postgres's clock. Other clocks matter only for certificates, signatures to
# S3 (15 minutes), and people who read logs.
CLOCK_SECONDS = 5.0
# A leaf of 20M rows is vacuumed when 2 % are dead; vacuum does not keep up if ten times as many are, or a million in a
# small table.
DEAD_SHARE, DEAD_ROWS = 0.2, 1_000_000
# Postgres refuses to write at 2.1 billion; autovacuum's own emergency begins at 1.6 billion.
OLDEST_XID = 1_000_000_000
FULL_DISK = 0.9
BUSY_CONNECTIONS = 0.8
# Counting adds up the unfolded entries each time; that many take about 50 ms. A small crawl never has as many.
UNFOLDED_SECONDS, UNFOLDED_ENTRIES = 600.0, 100_000
