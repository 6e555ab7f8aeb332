"""A COPY in pieces, which one thread prepares while another sends them.

Invariant: the pieces are one whole COPY, in one order, however often they are asked for; what a piece may not hold
(see `tracker.protocol.copy_rows`) is raised where it is asked for, and so ends the transaction.

All pieces stay in memory until the COPY is let go of, as one buffer would: a connection that breaks asks again.
"""

from collections.abc import Iterator
from concurrent.futures import Executor

from dataset.ingest.shuffle import Shuffled
from tracker.protocol.copy_rows import SIGNATURE, TRAILER, Piece, copy_rows

# Some 6 MB: Postgres takes 60 ms for one, and what must be prepared before the first is sent is little.
PIECE_ROWS = 32_768


class Pieces:
    """The COPY of one part of shuffled rows, to be iterated over."""

    def __init__(self, beside: Executor, mixed: Shuffled, part: str, *, leaf: int, run_id: int) -> None:
        def prepare(start: int) -> memoryview:
            rows = mixed.part(part, start, start + PIECE_ROWS)
            return copy_rows(rows, leaf=leaf, run_id=run_id, subset=part)

        starts = range(0, len(mixed.rows.get(part, ())), PIECE_ROWS)
        self._prepared = [beside.submit(prepare, start) for start in starts]

    def __iter__(self) -> Iterator[Piece]:
        yield SIGNATURE
        for piece in self._prepared:
            yield piece.result()
        yield TRAILER
