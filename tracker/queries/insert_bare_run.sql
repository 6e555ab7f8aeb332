-- Add a run without candidates, and therefore without a recipe and shards; an existing run stays as it is.
INSERT INTO tracker.run (name, recipe, keep_shards) VALUES (%(name)s, '{}', 'forever') ON CONFLICT (name) DO NOTHING
