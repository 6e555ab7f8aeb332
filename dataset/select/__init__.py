"""From a release to a smaller list of its rows.

    --where ─▶ rules ─▶ matching rows, a row group at a time ─┬─▶ files of the selection
                                                              └─▶ candidates ─▶ cuts (host, share, sample) ─▶ files

Invariant: a row keeps its id, and which rows are selected depends on the release, the options and the seed alone.
DuckDB sees tables in memory only: it evaluates a checked expression, without access to files, network or extensions.
"""
