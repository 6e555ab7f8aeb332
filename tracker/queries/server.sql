-- Return size and health of the server from its statistics; of the tables, only the ends of the ledger are read.
SELECT pg_database_size(current_database()) AS size_bytes,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
       current_setting('max_connections')::int AS max_connections,
       coalesce((SELECT extract(epoch FROM clock_timestamp() - min(xact_start)) FROM pg_stat_activity
                 WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()),
                0)::float8 AS horizon_seconds,
       (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()) AS oldest_xid_age,
       coalesce((SELECT sum(n_dead_tup) FROM pg_stat_user_tables JOIN tracker.leaf ON relname = leaf.relation
                 WHERE schemaname = 'tracker'), 0)::bigint AS pool_dead_rows,
       coalesce((SELECT extract(epoch FROM now() - posted_at) FROM tracker.ledger ORDER BY entry_id LIMIT 1),
                0)::float8 AS ledger_lag_seconds,
       coalesce((SELECT max(entry_id) - min(entry_id) + 1 FROM tracker.ledger), 0) AS ledger_entries,
       (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS data_directory
