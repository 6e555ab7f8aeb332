-- Put a hash list in force.
INSERT INTO tracker.hash_list (name, reason, path, sha256, hashes)
VALUES (%(name)s, %(reason)s, %(path)s, %(sha256)s, %(hashes)s)
