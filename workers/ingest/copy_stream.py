"""A COPY stream whose pieces are prepared in a thread while Postgres takes the pieces before them.

Invariant: the pieces form one complete COPY, in the same order each time they are iterated over. A value that COPY
cannot carry (see `tracker.protocol.copy_rows`) raises during the iteration, which ends the transaction.

All pieces stay in memory until the stream is released: if the connection breaks, they are sent again.
"""

from collections.abc import Iterator
from concurrent.futures import Executor

from dataset.ingest.shuffle import Shuffled
from tracker.protocol.copy_rows import SIGNATURE, TRAILER, Piece, copy_rows

# About 6 MB. Postgres takes 60 ms for one piece, so the first is ready soon and the thread stays ahead.
PIECE_ROWS = 32_768


class CopyStream:
    """The COPY of one subset of shuffled rows; iterate over it to send it."""

    def __init__(self, executor: Executor, shuffled: Shuffled, subset: str, *, leaf: int, run_id: int) -> None:
        def prepare(start: int) -> memoryview:
            rows = shuffled.subset(subset, start, start + PIECE_ROWS)
            return copy_rows(rows, leaf=leaf, run_id=run_id, subset=subset)

        starts = range(0, len(shuffled.rows.get(subset, ())), PIECE_ROWS)
        self._pieces = [executor.submit(prepare, start) for start in starts]

    def __iter__(self) -> Iterator[Piece]:
        yield SIGNATURE
        for piece in self._pieces:
            yield piece.result()
        yield TRAILER
