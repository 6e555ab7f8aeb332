"""Side tables: further columns of a release's rows, by id, beside files that stay as they are.

    tables by hash or id ─▶ runs: a unit of rows, as many as fit, in sections by ranges of hashes, or by data file
                         ─▶ files: one data file ─▶ the rows of its sections that are its own, by id ─▶ side_tables.json

Invariant: the bytes depend on the rows and their order alone, not on units or threads. Nothing is sorted: a hash tells
its section by its top bits, and its place in a file nearly.
"""
