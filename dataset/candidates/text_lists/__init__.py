"""The rows of link lists that are text: csv, tsv, JSON lines, a JSON array, bare URLs; plain or gzip.

lines.py ─▶ tables.py, json_rows.py ─▶ rows.py

The folder stands twice, alike to the byte: in dataset/candidates/, for the workers that read lists, and in
tracker/seeding/, for `tracker seed`, which looks at their first rows by the same rules; the two packages do not know
each other. A test compares the two. Rejected: Arrow's readers, which give up a file at its first odd row.
"""
