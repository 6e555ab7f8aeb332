"""Side tables: further columns of a release's rows, by id, beside files that stay as they are.

    tables by hash or id ─▶ runs: a unit of rows, as many as fit ─▶ their ids, in sections by data file
                        ─▶ files: one data file ─▶ the rows of its sections, by id ─▶ side_tables.json

Invariant: the bytes depend on the rows and their order alone, not on units or threads. Hashes are found by walking
through the release's sorted hashes once for each unit, so nothing is shuffled.
"""
