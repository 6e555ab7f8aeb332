"""Statistics over all rows of a table: parquet files → counts → figures → JSON, Markdown, page.

    rows.py  ──▶  counts.py  ──▶  figures.py  ──▶  tables.py (JSON, Markdown), the page
    a batch       mergeable       what is printed

`Counts` is the only state. It is exact except for distinct counts (HyperLogLog, its error is stated), and it merges in
any order, so the counts of a file are saved, and after a new batch or a removal only changed files are counted again.
"""
