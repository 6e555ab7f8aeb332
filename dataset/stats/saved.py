"""Saved counts: a file next to the release for each of its data files, so that no file is counted twice.

    8 bytes   magic             "SHOALCNT"
    u32, u32  format, CRC-32 of the content
    u64       bytes of the content
    zstd      content: u64 length of the head, the head (JSON), the arrays of counts.ARRAYS in their order (int64),
              languages (L, 201) int64, registers (D, 16384) uint8, for each of FREQUENT hashes uint64, counts int64

All little-endian. The head contains the sha256 of the data file, so counts of another version of it are not used. A
file has 60 to 150 kB, because most counts are 0. Equal counts give equal bytes.
"""

import json
import struct
import zlib
from typing import Any

import numpy as np
import pyarrow as pa

from dataset import strict_json
from dataset.errors import DatasetError
from dataset.stats.counts import ARRAYS, DISTINCT, FREQUENT, LANGUAGE_BINS, Counts, LanguageCounts
from dataset.stats.frequent import KEPT, Frequent
from dataset.stats.hyperloglog import REGISTERS

FORMAT = 1
SUFFIX = ".counts"
_MAGIC = b"SHOALCNT"
_OUTER = struct.Struct("<8sIIQ")
_HEAD = struct.Struct("<Q")
_MAX_BYTES = 64 << 20  # limit for the content; normal content has 4 to 5 MB


class SavedCountsError(DatasetError):
    """Saved counts are damaged, of another format, or of another data file."""


def counts_to_bytes(counts: Counts, sha256: str) -> bytes:
    """Write the counts of the data file with this sha256."""
    languages = sorted(counts.languages.items())
    head = {
        "sha256": sha256,
        "rows": counts.rows,
        "languages": [[name, each.rows, each.similarity_sum] for name, each in languages],
        "frequent": {name: _frequent_head(counts.frequent[name]) for name in FREQUENT},
    }
    arrays: list[Any] = [counts.arrays[name].astype("<i8") for name in ARRAYS]
    arrays += [each.similarity.astype("<i8") for _, each in languages]
    arrays += [counts.distinct[name] for name in DISTINCT]
    for name in FREQUENT:
        arrays += [counts.frequent[name].hashes.astype("<u8"), counts.frequent[name].counts.astype("<i8")]
    text = strict_json.dumps(head, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode(
        "utf-8", "surrogatepass"
    )
    content = b"".join([_HEAD.pack(len(text)), text, *(array.tobytes() for array in arrays)])
    packed: bytes = pa.Codec("zstd", compression_level=3).compress(content, asbytes=True)
    return _OUTER.pack(_MAGIC, FORMAT, zlib.crc32(content), len(content)) + packed


def bytes_to_counts(data: bytes, sha256: str) -> Counts:
    """Read the counts of the data file with this sha256.

    Raises: SavedCountsError when they are damaged, of another format or of another data file; count the file again.
    """
    try:
        return _read(data, sha256)
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, OSError, pa.ArrowException) as error:
        raise SavedCountsError(
            f"The saved counts are damaged ({error}): delete the file, it will be counted again."
        ) from error


def _frequent_head(frequent: Frequent) -> dict[str, Any]:
    texts = [frequent.texts.get(each) for each in frequent.hashes.tolist()]
    return {"texts": texts, "missed": frequent.missed}


def _read(data: bytes, sha256: str) -> Counts:
    magic, version, checksum, size = _OUTER.unpack_from(data)
    if magic != _MAGIC or version != FORMAT:
        raise ValueError(f"not counts of format {FORMAT}")
    if size > _MAX_BYTES:
        raise ValueError(f"{size} bytes")
    content = pa.Codec("zstd").decompress(data[_OUTER.size :], size, asbytes=True)
    if zlib.crc32(content) != checksum:
        raise ValueError("wrong checksum")
    (length,) = _HEAD.unpack_from(content)
    head = json.loads(content[_HEAD.size : _HEAD.size + length].decode("utf-8", "surrogatepass"))
    if head["sha256"] != sha256:
        raise ValueError("they belong to another version of the data file")
    return _read_arrays(head, _Arrays(content, _HEAD.size + length))


def _read_arrays(head: dict[str, Any], take: "_Arrays") -> Counts:
    arrays = {name: take("<i8", *shape) for name, shape in ARRAYS.items()}
    languages = {
        str(name): LanguageCounts(int(rows), int(total), take("<i8", LANGUAGE_BINS))
        for name, rows, total in head["languages"]
    }
    distinct = {name: take("u1", REGISTERS) for name in DISTINCT}
    frequent = {}
    for name in FREQUENT:
        texts = head["frequent"][name]["texts"]
        if len(texts) > KEPT:
            raise ValueError(f"{len(texts)} frequent values")
        hashes, counts = take("<u8", len(texts)), take("<i8", len(texts))
        known = {each: text for each, text in zip(hashes.tolist(), texts, strict=True) if text is not None}
        frequent[name] = Frequent(hashes, counts, known, int(head["frequent"][name]["missed"]))
    take.end()
    return Counts(int(head["rows"]), arrays, languages, distinct, frequent)


class _Arrays:
    """Read arrays from the content, one after the other."""

    def __init__(self, content: bytes, at: int) -> None:
        self._content, self._at = content, at

    def __call__(self, kind: str, *shape: int) -> Any:
        dtype = np.dtype(kind)
        count = int(np.prod(shape))
        array = np.frombuffer(self._content, dtype, count, self._at)
        self._at += count * dtype.itemsize
        return array.reshape(shape).astype(dtype.newbyteorder("="))

    def end(self) -> None:
        if self._at != len(self._content):
            raise ValueError("its length is wrong")
