"""From the embeddings of parts, or of a foreign folder, to those of a release: one folder for each model and batch.

    sources ─▶ plan ─┬─ match: a unit of source rows ─▶ the id of each row, −1 if it is not in the release
                     ├─ layout: ids seen before are dropped, missing ids named
                     └─ files:  1M rows of the result, one of ─▶ img_emb, text_emb, metadata
                                                      ─▶ index.json

Invariant: rows keep the order of their sources, so the bytes do not depend on the units or the memory. A unit writes
whole files and may be repeated.
"""
