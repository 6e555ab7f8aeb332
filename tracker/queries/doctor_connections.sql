-- Return the number of connected clients, and the limit.
SELECT count(*) AS n, current_setting('max_connections')::int AS most
FROM pg_stat_activity WHERE backend_type = 'client backend'
