"""The records of a WARC file that may be damaged: what can be read is read, what cannot is counted.

Invariant: every record that FastWARC can read is given once, in order. After damage reading goes on at the next place
where a record can begin: the next gzip member, of which Common Crawl writes one a record, or in a file that is not
compressed the next 'WARC/1.'. Memory is bounded by one group of records and what the decompressor has read ahead.

Bodies are given in groups, because whoever looks at each between two inflations finds his code and data thrown out of
the processor's caches, and throws out the inflater's: opening and searching took 70 of 490 ms a WAT file more so.

FastWARC 2.0 stops at the first damage, takes a file that ends within a record for a whole one, and gives a last record
cut short without a word; so the bytes since the group's first record are kept here, to search them for the next member
and to see at the end whether the last one is complete. Rejected: splitting members with zlib ourselves (0.25 s for 57
MB against FastWARC's 0.23 s, and every header still to be parsed).
"""

import io
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecordType

from dataset.errors import DatasetError

MAX_RECORD_BYTES = 32 << 20
"""Common Crawl cuts pages at 5 MiB (1 MiB before 2025), and the metadata of a page of nothing but links stays below."""

MAX_KEPT_BYTES = 64 << 20
"""A file compressed as one member keeps no more than this: after damage in it, only that much is searched."""

MAX_FAILURES = 10_000
"""So many starts in a row without a record, and the rest of the file is given up: it is not WARC any more."""

GROUP_BYTES = 1 << 20
"""Of bodies given together, a hundred pages: 5 % faster than a quarter of it, and four times as much is no faster."""

READ_BYTES = 64 << 10  # what FastWARC asks for at a time
GZIP_MEMBER = b"\x1f\x8b\x08"
PLAIN_RECORD = b"WARC/1."
GZIP_WINDOW_BITS = 31  # zlib: gzip's header and checksum, 32 KiB window


class WarcError(DatasetError):
    """The file is no WARC file."""


class WarcRecords:
    """The bodies (bytes) of the metadata records of one file, in groups, to be iterated over once.

    `damaged` counts the records lost to damage, as well as can be told. `truncated`, known when the iteration is over,
    says that the file breaks off within a record; that one is not counted.
    """

    def __init__(self, source: BinaryIO) -> None:
        self.damaged = 0
        self.truncated = False
        self._tape = _Tape(source)
        self._start = -1  # where in the file the last record begins, or the last attempt at one
        self._records = 0
        self._failures = 0  # since the last record
        self._failed_after = -1  # where the record begins at which the first of them was met
        self._bodies: list[bytes] = []  # the group
        self._starts: list[int] = []  # where its records begin
        self._distrusted: int | None = None  # where the last record begins that was distrusted
        self._back_to: int | None = None  # the same, where there are records within it

    def __iter__(self) -> Iterator[list[bytes]]:
        """Give the bodies, GROUP_BYTES of them at a time.

        Raises: WarcError when the file holds no record at all; whatever the source raises.
        """
        marker = GZIP_MEMBER if self._tape.peek(len(GZIP_MEMBER)) == GZIP_MEMBER else PLAIN_RECORD
        while True:
            try:
                yield from self._undamaged()
                self.truncated = marker == GZIP_MEMBER and _ends_early(self._tape.since(self._start))
                break
            except (_Damage, OSError):
                if self._tape.pulling:  # the source's own trouble, not the file's
                    raise
            if not self._failures:
                self._failed_after = self._start
            self._failures += 1
            position = self._tape.find(marker, self._start + 1) if self._failures < MAX_FAILURES else None
            if position is None:
                tail = self._tape.since(self._start)
                self.truncated = not tail.startswith(GZIP_MEMBER) or _ends_early(tail)
                break
            self._start = position
            self._tape.rewind(position)
        self._count_damage()
        if not self._records:
            raise WarcError("The file holds no WARC record: check that it is a WAT file, and not an error page.")

    def distrust(self, number: int) -> bool:
        """Say that a body of the group, by its place there, is damaged: it is counted.

        True where it holds records, which a Content-Length that is too large swallows: reading goes on within it, and
        what was behind it in the group comes again.
        """
        self.damaged += 1
        self._distrusted = self._starts[number]
        self._back_to = self._distrusted if PLAIN_RECORD in self._bodies[number] else None
        return self._back_to is not None

    def _undamaged(self) -> Iterator[list[bytes]]:
        """Give groups from where the tape stands to the end of the file, or to damage, what came before it first.

        Raises: OSError from FastWARC, _Damage from here where a record cannot be read.
        """
        try:
            yield from self._grouped()
        except (_Damage, OSError):
            if not self._tape.pulling:
                yield from self._group()
            raise
        yield from self._group()

    def _grouped(self) -> Iterator[list[bytes]]:
        """Give whole groups, and leave the last one in the making."""
        waiting = 0
        forget_at = 0
        for record in ArchiveIterator(self._tape, parse_http=False, fsspec_args=False):
            self._start = record.stream_pos
            if self._start >= forget_at:
                self._tape.forget(self._starts[0] if self._starts else self._start)
                forget_at = self._start + READ_BYTES
            if record.content_length > MAX_RECORD_BYTES:
                raise _Damage
            body: bytes = record.reader.read()
            if len(body) < record.content_length:
                raise _Damage
            if self._failures:
                self._count_damage()
            self._records += 1
            if record.record_type == WarcRecordType.metadata:
                self._bodies.append(body)
                self._starts.append(self._start)
                waiting += len(body)
                if waiting >= GROUP_BYTES:
                    yield from self._group()
                    waiting = 0

    def _group(self) -> Iterator[list[bytes]]:
        """Give what has been gathered, if anything has, and begin anew.

        Raises: _Damage where reading is to go on within a body of it.
        """
        if self._bodies:
            yield self._bodies
            self._bodies, self._starts = [], []
        if self._back_to is not None:
            self._start, self._back_to = self._back_to, None
            raise _Damage

    def _count_damage(self) -> None:
        """Count what the failures since the last record have cost; the first is followed by one at the same place."""
        if self._failures:
            known = int(self._distrusted == self._failed_after) + int(self.truncated)
            self.damaged += max(max(self._failures - 1, 1) - known, 0)
        self._failures = 0


class _Damage(Exception):
    """A record cannot be read, or does not end where it says."""


class _Tape:
    """A source as FastWARC reads it, which remembers what it gave since the last record's start."""

    def __init__(self, source: BinaryIO) -> None:
        self.pulling = False
        self._source = source
        self._kept = bytearray()
        self._first = 0  # position of the first byte kept
        self._position = 0  # of the next byte to be read

    def read(self, size: int = READ_BYTES) -> bytes:
        """Read up to `size` bytes: again after a rewind, else from the source."""
        offset = self._position - self._first
        chunk = bytes(self._kept[offset : offset + size]) or self._pull(size)
        self._position += len(chunk)
        return chunk

    def tell(self) -> int:
        """Return the position; FastWARC asks for it once and counts on from there."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Refuse: FastWARC wants the method and never calls it."""
        raise io.UnsupportedOperation(f"no seeking to {offset} (whence {whence})")

    def close(self) -> None:
        """Leave the source to its owner."""

    def peek(self, size: int) -> bytes:
        """Return the first bytes of the file without taking them."""
        while len(self._kept) < size and self._pull(READ_BYTES):
            pass
        return bytes(self._kept[:size])

    def forget(self, position: int) -> None:
        """Let go of what lies before `position`; what lies behind is moved, so not for every record."""
        self._drop(max(position - self._first, 0))

    def since(self, position: int) -> bytes:
        """Return what is kept from `position` on."""
        return bytes(self._kept[max(position - self._first, 0) :])

    def find(self, marker: bytes, position: int) -> int | None:
        """Return where `marker` next occurs from `position` on; None when it does not."""
        while True:
            found = self._kept.find(marker, max(position - self._first, 0))
            if found >= 0:
                return self._first + found
            position = max(position, self._first + len(self._kept) - len(marker) + 1)
            if not self._pull(READ_BYTES):
                return None

    def rewind(self, position: int) -> None:
        """Have the next read begin at `position`, which must be kept."""
        self._position = position

    def _pull(self, size: int) -> bytes:
        self.pulling = True
        chunk = self._source.read(size)
        self.pulling = False
        self._kept += chunk
        if len(self._kept) > MAX_KEPT_BYTES:
            self._drop(MAX_KEPT_BYTES // 2)
        return chunk

    def _drop(self, count: int) -> None:
        del self._kept[:count]
        self._first += count


def _ends_early(members: bytes) -> bool:
    """Say whether gzip members end within the last of them; what is no gzip does not end early."""
    while members:
        member = zlib.decompressobj(GZIP_WINDOW_BITS)
        try:
            while members and not member.eof:
                member.decompress(members, READ_BYTES)
                members = member.unconsumed_tail
        except zlib.error:
            return False
        if not member.eof:
            return True
        members = member.unused_data
    return False
