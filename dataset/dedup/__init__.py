"""Near-duplicates of a release: each row is represented by the best row of its group, which is at least as near as
asked.

    embeddings ─▶ ids, quality: the place of each row in the order of quality
               ─▶ train: projection, cells, shares of distance ─▶ layout ─▶ gather: rows by super-cell
               ─▶ for each round: new (against representatives) ─▶ merge ─▶ rest (among themselves) ─▶ sweep
               ─▶ count ─▶ verify ─▶ result ─▶ texts ─▶ write: `duplicates/`, a file for each data file ─▶ finish

Candidates come from 128 numbers a row (projection.py, cells.py), decisions from the float16 rows (rescore.py). Rows
are taken in the order of their quality in rounds that double (leader_join.py), so that a group of any size costs one
pair a member: what is represented is never compared again. No pairs are listed and no components are searched.

Invariants: a member's cosine to its representative reaches the threshold; the bytes depend neither on the order of
files nor on the number of processes; rows of an earlier batch keep their representatives when a batch is added.

Rejected: connected components (a group at .97 held pairs at .82); k nearest neighbours (k cuts large groups); the
single cell of SemDeDup and NeMo Curator (a tenth of the duplicates lies across borders); the m nearest cells (2.6
times the comparisons of the gap rule at equal recall); a learned projection (worse than principal directions and the
residual).
"""
