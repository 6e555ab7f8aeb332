-- Return whether the migrations' table exists, and whether this login may read it.
SELECT to_regclass('tracker.alembic_version') AS there,
       has_table_privilege(to_regclass('tracker.alembic_version'), 'SELECT') AS readable
