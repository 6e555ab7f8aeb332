"""Tag the rows of a finished release with heads, as the side table `tags`.

    embeddings ─▶ score: a range of rows ─▶ its tags ──────────────────────────────────┐
    source/    ─▶ locate: a data file ─▶ its keys, by group of shards ─┐               ├─▶ write: a data file
    manifest   ─▶ tars: those that are kept, by group ─────────────────┴─▶ pictures ───┘    ─▶ tags/… ─▶ finish

Invariant: the bytes depend on the release, the heads and the kept pictures, not on the number of workers or on the
units that are repeated. Other columns of `tags` stay as they are.
"""
