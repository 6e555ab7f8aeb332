-- Add a run without candidates, and so without a recipe and shards; one that exists stays as it is.
INSERT INTO tracker.run (name, recipe, keep_shards) VALUES (%(name)s, '{}', 'forever') ON CONFLICT (name) DO NOTHING
