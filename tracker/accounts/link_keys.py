"""Compare the keys of all links: no key may occur twice, or be both alive and final.

A link's key consists of its pack and its row there, in 63 bits. Keys are spilled into files by their hash, so equal
keys are in one file, and files are compared one at a time: 6 billion links take 48 GB of disk and 100 MB of memory.

Rejected: a set or a sorted array in memory (8 bytes per link); sums of hashes, which do not show how many keys differ.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from tracker.database.database import Connection, query
from tracker.errors import TrackerError

Keys = npt.NDArray[np.int64]
Place = Literal["alive", "final"]

FILES = 1024
BUFFERED = 1 << 20  # keys in memory, for each run and place
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: Knuth, volume 3, 6.4
ROWS_AT_ONCE = 100_000
# https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS: a header, then rows, each with its number
# of fields, and each field preceded by its length.
HEADER_BYTES = 19
ROW = np.dtype([("fields", ">i2"), ("run_bytes", ">i4"), ("run", ">i4"), ("key_bytes", ">i4"), ("key", ">i8")])


@dataclass(frozen=True, slots=True)
class Repeated:
    """Numbers of links of a run that occur more than once."""

    alive_twice: int
    final_twice: int
    alive_and_final: int


@dataclass(slots=True)
class LinkKeys:
    """The keys of one run; many keys are kept in `folder`."""

    folder: Path
    _buffers: dict[Place, list[Keys]] = field(default_factory=lambda: {"alive": [], "final": []})
    _buffered: dict[Place, int] = field(default_factory=lambda: {"alive": 0, "final": 0})
    _is_spilled: bool = False

    def add(self, place: Place, keys: Keys) -> None:
        """Add the keys of links.

        Raises:
            TrackerError: the disk is full.
        """
        self._buffers[place].append(keys)
        self._buffered[place] += len(keys)
        if self._buffered[place] >= BUFFERED:
            self._spill(place)

    def repeated(self) -> Repeated:
        """Compare all keys that were added."""
        alive_twice = final_twice = both = 0
        for alive, final in self._files():
            alive_once, final_once = np.unique(alive), np.unique(final)
            alive_twice += len(alive) - len(alive_once)
            final_twice += len(final) - len(final_once)
            both += len(np.intersect1d(alive_once, final_once, assume_unique=True))
        return Repeated(alive_twice, final_twice, both)

    def _files(self) -> Iterator[tuple[Keys, Keys]]:
        if not self._is_spilled:
            yield self._take("alive"), self._take("final")
            return
        for place in self._buffers:
            self._spill(place)
        for number in range(FILES):
            yield self._read("alive", number), self._read("final", number)

    def _take(self, place: Place) -> Keys:
        keys: Keys = np.concatenate([np.empty(0, np.int64), *self._buffers[place]])
        self._buffers[place], self._buffered[place] = [], 0
        return keys

    def _spill(self, place: Place) -> None:
        """Append the buffered keys to the files of their hashes."""
        self._is_spilled = True
        keys = self._take(place)
        numbers = (keys.view(np.uint64) * GOLDEN) >> np.uint64(64 - FILES.bit_length() + 1)
        order = np.argsort(numbers, kind="stable")
        ends = np.searchsorted(numbers[order], np.arange(FILES + 1, dtype=np.uint64))
        try:
            for number in np.flatnonzero(np.diff(ends)):
                with self._path(place, int(number)).open("ab") as file:
                    file.write(keys[order[ends[number] : ends[number + 1]]].tobytes())
        except OSError as error:
            raise TrackerError(
                f"the audit cannot keep the links' keys in {self.folder} ({error}): it needs 8 bytes per link; "
                f"set TMPDIR to a folder with more space"
            ) from error

    def _read(self, place: Place, number: int) -> Keys:
        path = self._path(place, number)
        return np.fromfile(path, np.int64) if path.exists() else np.empty(0, np.int64)

    def _path(self, place: Place, number: int) -> Path:
        return self.folder / f"{number:04}.{place}"


class KeysOfRuns:
    """The keys of each run, by run_id."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: dict[int, LinkKeys] = {}

    def of(self, run_id: int) -> LinkKeys:
        if run_id not in self._runs:
            folder = self._folder / str(run_id)
            folder.mkdir()
            self._runs[run_id] = LinkKeys(folder)
        return self._runs[run_id]

    def add_alive(self, connection: Connection) -> None:
        """Add the links that are in the database, as the caller's transaction sees them."""
        for rows in read_rows(connection):
            for run_id in np.unique(rows["run"]).tolist():
                self.of(run_id).add("alive", rows["key"][rows["run"] == run_id].astype(np.int64))


@contextmanager
def opened_keys() -> Iterator[KeysOfRuns]:
    """Yield an empty collection of keys, kept in a temporary folder (TMPDIR) until the block ends."""
    with tempfile.TemporaryDirectory(prefix="shoal-audit-", ignore_cleanup_errors=True) as folder:
        yield KeysOfRuns(Path(folder))


def read_rows(connection: Connection) -> Iterator[npt.NDArray[np.void]]:
    """Yield the run and key of every link in the database, some 100,000 at a time."""
    with connection.cursor().copy(query("link_keys")) as copy:
        left = b""
        is_first = True
        pieces: Iterable[bytes] = (bytes(piece) for piece in copy)
        while some := b"".join(islice(iter(pieces), ROWS_AT_ONCE)):
            left += some
            if is_first:
                left, is_first = left[HEADER_BYTES:], False
            whole = len(left) // ROW.itemsize
            if whole:
                yield np.frombuffer(left, ROW, whole)
            left = left[whole * ROW.itemsize :]  # at the end, the trailer of two bytes is left
