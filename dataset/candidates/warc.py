"""Read the records of a WARC file that may be damaged: yield what is readable, count what is not.

Invariant: every record that FastWARC can read is yielded once, in order. After damage, reading continues at the next
place where a record can begin: the next gzip member (Common Crawl writes one per record), or 'WARC/1.' in an
uncompressed file. Memory is bounded by one group of records and the decompressor's read-ahead.

Bodies are yielded in groups, because processing each body between two decompressions evicts the decompressor's code and
data from the processor's caches.

FastWARC 2.0 stops at the first damage, and accepts a file that ends within a record without an error. So the bytes
since the group's first record are kept here, to find the next member in them, and to check whether the last one is
complete. Rejected: splitting members with zlib (0.25 s for 57 MB, FastWARC takes 0.23 s, and headers would still have
to be parsed).
"""

import io
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecordType

from dataset.errors import DatasetError

MAX_RECORD_BYTES = 32 << 20
"""Common Crawl cuts pages at 5 MiB (1 MiB before 2025); the metadata of a page that consists of links stays below this.
"""

MAX_KEPT_BYTES = 64 << 20
"""Maximum bytes kept of a file compressed as one member; after damage, only these are searched."""

MAX_FAILURES = 10_000
"""After this many starts in a row without a record, the rest of the file is given up as not WARC."""

GROUP_BYTES = 1 << 20
"""Bytes of bodies in a group, about a hundred pages: 5 % faster than a quarter of it; larger groups are no faster."""

READ_BYTES = 64 << 10  # what FastWARC asks for at a time
GZIP_MEMBER = b"\x1f\x8b\x08"
PLAIN_RECORD = b"WARC/1."
GZIP_WINDOW_BITS = 31  # zlib: gzip's header and checksum, 32 KiB window


class WarcError(DatasetError):
    """The file is not a WARC file."""


class WarcRecords:
    """The bodies (bytes) of the metadata records of one file, in groups; can be iterated over once.

    `damaged` counts the records lost to damage, as precisely as can be determined. `truncated`, valid after the
    iteration, means that the file ends within a record, which is not counted.
    """

    def __init__(self, source: BinaryIO) -> None:
        self.damaged = 0
        self.truncated = False
        self._tape = _Tape(source)
        self._start = -1  # start of the last record, or of the last attempt to read one
        self._records = 0
        self._failures = 0  # since the last record
        self._failed_after = -1  # start of the record at which the first failure occurred
        self._bodies: list[bytes] = []  # of the current group
        self._starts: list[int] = []  # the start of each of its records
        self._distrusted: int | None = None  # start of the last distrusted record
        self._back_to: int | None = None  # the same, if it contains further records

    def __iter__(self) -> Iterator[list[bytes]]:
        """Yield the bodies in groups of about GROUP_BYTES.

        Raises: WarcError when the file contains no record; whatever the source raises.
        """
        marker = GZIP_MEMBER if self._tape.peek(len(GZIP_MEMBER)) == GZIP_MEMBER else PLAIN_RECORD
        while True:
            try:
                yield from self._undamaged()
                self.truncated = marker == GZIP_MEMBER and _ends_early(self._tape.since(self._start))
                break
            except (_Damage, OSError):
                if self._tape.pulling:  # the source failed, not the file
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
            raise WarcError("The file holds no WARC record: check that it is a WAT file and not an error page.")

    def distrust(self, number: int) -> bool:
        """Report a body, by its index in the group, as damaged; it is counted.

        Return True if the body contains further records, because its Content-Length is too large: reading then
        continues within it, and the rest of the group is yielded again.
        """
        self.damaged += 1
        self._distrusted = self._starts[number]
        self._back_to = self._distrusted if PLAIN_RECORD in self._bodies[number] else None
        return self._back_to is not None

    def _undamaged(self) -> Iterator[list[bytes]]:
        """Yield groups until the end of the file or the next damage, including what came before the damage.

        Raises: OSError from FastWARC, _Damage when a record cannot be read.
        """
        try:
            yield from self._grouped()
        except (_Damage, OSError):
            if not self._tape.pulling:
                yield from self._group()
            raise
        yield from self._group()

    def _grouped(self) -> Iterator[list[bytes]]:
        """Yield the full groups, and keep the last, incomplete one."""
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
        """Yield the collected bodies, if any, and start a new group.

        Raises: _Damage when reading has to continue within one of its bodies.
        """
        if self._bodies:
            yield self._bodies
            self._bodies, self._starts = [], []
        if self._back_to is not None:
            self._start, self._back_to = self._back_to, None
            raise _Damage

    def _count_damage(self) -> None:
        """Count the records lost since the last good one: each failure is one, but a failed record is tried at two
        places.
        """
        if self._failures:
            known = int(self._distrusted == self._failed_after) + int(self.truncated)
            self.damaged += max(max(self._failures - 1, 1) - known, 0)
        self._failures = 0


class _Damage(Exception):
    """A record cannot be read, or does not end where its length says."""


class _Tape:
    """A source for FastWARC that remembers the bytes since the last record's start."""

    def __init__(self, source: BinaryIO) -> None:
        self.pulling = False
        self._source = source
        self._kept = bytearray()
        self._first = 0  # position of the first byte kept
        self._position = 0  # of the next byte to be read

    def read(self, size: int = READ_BYTES) -> bytes:
        """Return up to `size` bytes: kept ones after a rewind, otherwise from the source."""
        offset = self._position - self._first
        chunk = bytes(self._kept[offset : offset + size]) or self._pull(size)
        self._position += len(chunk)
        return chunk

    def tell(self) -> int:
        """Return the position; FastWARC asks for it once and then counts by itself."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Refuse: FastWARC requires the method but never calls it."""
        raise io.UnsupportedOperation(f"no seeking to {offset} (whence {whence})")

    def close(self) -> None:
        """Do nothing: the source belongs to the caller."""

    def peek(self, size: int) -> bytes:
        """Return the first bytes of the file without consuming them."""
        while len(self._kept) < size and self._pull(READ_BYTES):
            pass
        return bytes(self._kept[:size])

    def forget(self, position: int) -> None:
        """Drop the bytes before `position`; this moves the rest, so it is not called for every record."""
        self._drop(max(position - self._first, 0))

    def since(self, position: int) -> bytes:
        """Return the kept bytes from `position` on."""
        return bytes(self._kept[max(position - self._first, 0) :])

    def find(self, marker: bytes, position: int) -> int | None:
        """Return the next position of `marker` at or after `position`; None if there is none."""
        while True:
            found = self._kept.find(marker, max(position - self._first, 0))
            if found >= 0:
                return self._first + found
            position = max(position, self._first + len(self._kept) - len(marker) + 1)
            if not self._pull(READ_BYTES):
                return None

    def rewind(self, position: int) -> None:
        """Let the next read start at `position`, which must be kept."""
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
    """Return whether the last gzip member is incomplete; False for data that is not gzip."""
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
