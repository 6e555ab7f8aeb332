"""Hash lists: read the admin's file, and write it into the store in the form that workers load.

Invariant: a file is accepted whole or not at all, and neither messages nor logs contain a hash. A worker loads a list
as sorted numbers: the first 64 bits of sha256 and md5, and whole PDQs (`dataset.safety.hash_lists` says why).

A csv, tsv or parquet file has columns named sha256, md5 or pdq; others are ignored. A text file has one hash per line:
32 hex digits are an md5; for 64 digits the caller says whether they are sha256 or PDQ.
"""

import csv
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tracker import strict_json
from tracker.errors import TrackerError
from tracker.storage.open import open_store
from tracker.storage.whole_files import put_whole

DIGITS = {"sha256": 64, "md5": 32, "pdq": 64}
KINDS = ("sha256", "md5", "sha1", "url", "pair", "host", "pdq")
"""All kinds of a file, in the order in which it has them; those without DIGITS come from deny lists."""
MAGIC = b"SHOALRL2"
HEAD_BYTES = 256
Numbers = npt.NDArray[np.uint64]


class HashListError(TrackerError):
    """The file cannot be used as a hash list."""


@dataclass(frozen=True, slots=True)
class HashList:
    """A list as it is stored; `hashes` is the number of distinct hashes by kind."""

    path: str
    data: bytes
    hashes: dict[str, int]

    @property
    def sha256(self) -> str:
        """Return the checksum (hex) of the file."""
        return hashlib.sha256(self.data).hexdigest()

    def write(self, store: str) -> None:
        """Write the file into the store.

        Raises:
            TrackerError: the store cannot be written.
        """
        try:
            put_whole(open_store(store), self.path, self.data)
        except (pa.ArrowException, OSError) as error:
            raise TrackerError(f"the list cannot be written to {store}: {error}; check SHOAL_STORE") from error


def read_list(file: Path, kind: str | None) -> HashList:
    """Read a file of hashes; `kind` is the kind of a text file's 64-digit hashes. Nothing is written.

    Raises:
        HashListError: it cannot be read, has a line that is not a hash, or is empty.
    """
    data, counts = pack(_read(file, kind))
    if not any(counts.values()):
        raise HashListError(f"{file} contains no hash: give one per line, or columns named {', '.join(DIGITS)}")
    return HashList(f"hash_lists/{uuid4().hex}.hashes", data, counts)


def pack(hashes: Iterable[tuple[str, str]]) -> tuple[bytes, dict[str, int]]:
    """Return the file of these (kind, hex) pairs, and the number of distinct hashes by kind of an admin's list."""
    digests: dict[str, list[bytes]] = {kind: [] for kind in DIGITS}
    for kind, digest in hashes:
        digests[kind].append(bytes.fromhex(digest)[: 32 if kind == "pdq" else 8])
    data, counts = pack_numbers({kind: _numbers(found) for kind, found in digests.items()})
    return data, {kind: counts[kind] for kind in DIGITS}


def pack_numbers(found: Mapping[str, Numbers]) -> tuple[bytes, dict[str, int]]:
    """Return the file of numbers by kind, and its counts: 256 bytes of magic and counts, then sorted uint64.

    PDQs are four numbers each, all else is one.
    """
    parts = {kind: _distinct(found.get(kind, np.empty(0, np.uint64))) for kind in KINDS if kind != "pdq"}
    parts["pdq"] = np.unique(found.get("pdq", np.empty(0, np.uint64)).reshape(-1, 4), axis=0)
    counts = {kind: len(parts[kind]) for kind in KINDS}
    head = MAGIC + strict_json.dumps({kind: n for kind, n in counts.items() if n}, separators=(",", ":")).encode()
    assert len(head) <= HEAD_BYTES
    return b"".join((head.ljust(HEAD_BYTES), *(parts[kind].astype("<u8", copy=False).data for kind in KINDS))), counts


def _distinct(values: Numbers) -> Numbers:
    """Return the distinct values, sorted; of many million, one copy is made (numpy.unique makes three)."""
    ordered: Numbers = np.sort(values)
    repeated = ordered[1:] == ordered[:-1]
    return np.delete(ordered, np.flatnonzero(repeated)) if repeated.any() else ordered


def _numbers(digests: list[bytes]) -> Numbers:
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def _read(file: Path, kind: str | None) -> Iterator[tuple[str, str]]:
    try:
        match file.suffix.lower():
            case ".parquet":
                yield from _columns(file, _parquet_rows(file))
            case ".csv" | ".tsv":
                with file.open(encoding="utf-8-sig", newline="") as lines:
                    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
                    yield from _columns(file, csv.DictReader(lines, delimiter=delimiter))
            case _:
                with file.open(encoding="utf-8-sig") as lines:
                    yield from _lines(file, lines, kind)
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise HashListError(f"{file} cannot be read: {error}; give text, csv, tsv or parquet") from error


def _parquet_rows(file: Path) -> Iterator[dict[str, object]]:
    parquet = pq.ParquetFile(file)
    named = [name for name in parquet.schema_arrow.names if name in DIGITS]
    for batch in parquet.iter_batches(columns=named):
        yield from batch.to_pylist()


def _columns(file: Path, rows: Iterable[dict[str, object]]) -> Iterator[tuple[str, str]]:
    for number, row in enumerate(rows, 1):
        for kind in DIGITS:
            if row.get(kind):
                yield kind, _hash(str(row[kind]), kind, f"row {number} of {file}")


def _lines(file: Path, lines: Iterable[str], kind: str | None) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, 1):
        if not (digest := line.strip()) or digest.startswith("#"):
            continue
        found = "md5" if len(digest) == DIGITS["md5"] else kind
        if found is None:
            raise HashListError(f"line {number} of {file} may be a sha256 or a PDQ: choose one with --kind")
        yield found, _hash(digest, found, f"line {number} of {file}")


def _hash(digest: str, kind: str, where: str) -> str:
    digest = digest.strip().lower()
    if len(digest) != DIGITS[kind] or not set(digest) <= set("0123456789abcdef"):
        raise HashListError(f"{where} is not a valid {kind}: it needs {DIGITS[kind]} hexadecimal digits")
    return digest
