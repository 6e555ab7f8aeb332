-- All settings as numbers.
SELECT name, (value #>> '{}')::float8 AS value FROM tracker.setting
