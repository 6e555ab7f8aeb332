"""From parts to a release: an external merge sort in three phases of small units.

    manifest ─▶ inputs ─▶ plan ─┬─ runs:   a group of parts  ─▶ one sorted run
                                ├─ ranges: a range of hashes ─▶ which rows are published, in which order
                                └─ files:  one output file   ─▶ data, extended, source, variants, hosts, statistics
                                                             ─▶ record: ids, hosts.parquet, SHA256SUMS, release.json

Invariant: the plan fixes all that the bytes of the release depend on. A unit reads only what earlier phases wrote and
writes whole files, so it may be repeated, on any machine and in any order; what is there is not made again.
"""
