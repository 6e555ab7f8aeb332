-- Return Shoal's tables, with their dead rows and whether autovacuum is switched off.
SELECT pg_class.relname AS name, pg_stat_user_tables.n_dead_tup AS dead, pg_stat_user_tables.n_live_tup AS live,
       coalesce('autovacuum_enabled=false' = ANY (reloptions) OR 'autovacuum_enabled=off' = ANY (reloptions), false)
           AS switched_off
FROM pg_class JOIN pg_stat_user_tables ON relid = pg_class.oid
WHERE pg_class.relnamespace = to_regnamespace('tracker')
