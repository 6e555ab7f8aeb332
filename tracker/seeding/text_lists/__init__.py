"""The rows of link lists that are text: csv, tsv, JSON lines, a JSON array, bare URLs; plain or gzip.

lines.py ─▶ tables.py, json_rows.py ─▶ rows.py

There are two copies of this folder: in dataset/candidates/, for the workers that read lists, and in tracker/seeding/,
for `tracker seed`, which reads the first rows by the same rules. The two packages do not import each other; a test
checks that the copies are identical. Rejected: Arrow's readers, which stop at the first malformed row of a file.
"""
