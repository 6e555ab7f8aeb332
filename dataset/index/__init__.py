"""A kNN index of a release's embeddings, or of anyone's folder of vectors: built in steps, searched in memory maps.

    embeddings ─▶ train: rows drawn from all files ─▶ trained.faiss, held-out queries
               ─▶ add: a slice of a file ─▶ its rows by list and id, with codes
    data files ─▶ describe: a slice of the ids ─▶ their columns, by range of lists
               ─▶ merge: a range of lists ─▶ codes, rows, ids, numbers, texts, bitmaps, facet counts, exact neighbours
               ─▶ finish: positions of the ids, recall ─▶ index.json

`lookup` opens an index and searches it; `delete`, `refresh` and `compact` change one under its readers. faiss trains,
encodes and scans lists; the layout, the filters and the metadata are ours. faiss is imported here only.
"""
