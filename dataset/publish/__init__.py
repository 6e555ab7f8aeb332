"""From parts to a release: an external merge sort in three phases of small units.

    manifest ─▶ inputs ─▶ plan ─┬─ runs:   a group of parts  ─▶ one sorted run
                                ├─ ranges: a range of hashes ─▶ the rows that are published, and their order └─ files:
                                one output file   ─▶ data, extended, source, variants, hosts, statistics
                                                             ─▶ record: ids, hosts.parquet, SHA256SUMS, release.json

Invariant: the plan contains everything that determines the bytes of the release. A unit reads only the output of
earlier phases and writes whole files, so it may be repeated, on any machine and in any order; existing output is not
made again.
"""
