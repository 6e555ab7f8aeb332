-- Add a run of candidates; an existing run stays as it is.
INSERT INTO tracker.run (name, recipe, keep_shards)
VALUES (%(name)s, coalesce(%(recipe)s::jsonb, '{}'), coalesce(%(keep)s, '24h'))
ON CONFLICT (name) DO NOTHING
