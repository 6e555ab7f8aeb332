"""Side tables: further columns of a release's rows, by id; the data files do not change.

    tables by hash or id ─▶ runs: a unit of rows, as many as fit, in sections by ranges of hashes, or by data file
                         ─▶ files: one data file ─▶ the rows of its sections that are its own, by id ─▶ side_tables.json

Invariant: the bytes depend only on the rows and their order, not on units or threads. Nothing is sorted: the top bits
of a hash determine its section, and approximately its position in a file.
"""
