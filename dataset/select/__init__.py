"""Select a smaller list of rows from a release.

    --where ─▶ rules ─▶ matching rows, a row group at a time ─┬─▶ files of the selection
                                                              └─▶ candidates ─▶ cuts (host, share, sample) ─▶ files

Invariant: a row keeps its id, and the selected rows depend only on the release, the options and the seed. DuckDB sees
tables in memory only: it evaluates a checked expression, without access to files, network or extensions.
"""
