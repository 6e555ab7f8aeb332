"""What a request names, as entries of a deny list: from options of a command, or from a file of many million lines.

A URL is denied as it was given and in the URL standard's form. In a text file each line says what it is: a URL by its
scheme, an md5 by 32 hexadecimal digits, a sha1 by 40, a pair's hash by its decimal digits, everything else is a host;
64 hexadecimal digits may be a sha256 or a PDQ, which the caller has to say. A csv, tsv or parquet file has columns
named url, hash, host, sha256, md5, sha1 or pdq.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from dataset.candidates.urls import Unresolved, host_of, resolve
from dataset.formats.deny_lists import ENTRIES_AT_ONCE, HEX_DIGITS, DenyKind
from dataset.formats.takedowns import Entry, TakedownError

COLUMNS: Mapping[str, DenyKind] = {"url": DenyKind.URL, "hash": DenyKind.PAIR, "host": DenyKind.HOST} | {
    kind.value: kind for kind in (DenyKind.SHA256, DenyKind.MD5, DenyKind.SHA1, DenyKind.PDQ)
}
"""The names that options and columns have, and the kinds that they give."""
ENTRY_SCHEMA = pa.schema([("kind", pa.string()), ("value", pa.string())])
_SHOWN = 60


def deny_entries(entries: Iterable[Entry]) -> pa.Table:
    """Return the kinds and values of a deny list for what was given.

    Raises: TakedownError when a value is not of its kind.
    """
    rows = [
        (kind.value, value)
        for entry in entries
        for kind in [COLUMNS[entry.kind]]
        for value in deny_values(kind, entry.value, f"--{entry.kind}")
    ]
    rows = list(dict.fromkeys(rows))
    return pa.table([[kind for kind, _ in rows], [value for _, value in rows]], schema=ENTRY_SCHEMA)


def deny_values(kind: DenyKind, text: str, where: str) -> Sequence[str]:
    """Return the values that one text gives in a deny list.

    Raises: TakedownError when it is not of its kind; the sentence does not repeat a digest.
    """
    text = text.strip()
    match kind:
        case DenyKind.URL:
            resolved = resolve(text, "")
            if isinstance(resolved, Unresolved):
                raise TakedownError(f"{where}: {text[:_SHOWN]!r} is not a URL: give it with http:// or https://.")
            return list(dict.fromkeys(hashlib.sha256(url.encode()).hexdigest() for url in (text, resolved)))
        case DenyKind.HOST:
            host = host_of(f"http://{text}/")
            if not host or any(sign in text for sign in "/*?#@ "):
                raise TakedownError(
                    f"{where}: {text[:_SHOWN]!r} is not a host: give a name like example.com, which includes its "
                    "subdomains."
                )
            return [f"[{host}]" if ":" in host else host]
        case DenyKind.PAIR:
            if not text.lstrip("-").isdecimal() or not -(2**63) <= int(text) < 2**63:
                raise TakedownError(f"{where}: {text[:_SHOWN]!r} is not a pair's hash: give the column `hash`.")
            return [str(int(text))]
        case _:
            digest = text.lower()
            if len(digest) != HEX_DIGITS[kind] or not set(digest) <= set("0123456789abcdef"):
                raise TakedownError(
                    f"{where}: a {kind} has {HEX_DIGITS[kind]} hexadecimal digits: correct the one that has not."
                )
            return [digest]


def read_entries(file: Path, kind: DenyKind | None) -> Iterator[pa.Table]:
    """Yield the entries of a file, ENTRIES_AT_ONCE lines at a time; `kind` is that of 64 hexadecimal digits in text.

    Raises: TakedownError when it cannot be read, or a line is not an entry.
    """
    try:
        match file.suffix.lower():
            case ".parquet":
                parquet = pq.ParquetFile(file)
                names = _columns(file, parquet.schema_arrow.names)
                yield from _tables(file, parquet.iter_batches(ENTRIES_AT_ONCE, columns=names))
            case ".csv" | ".tsv":
                yield from _tables(file, _csv_batches(file))
            case _:
                with file.open(encoding="utf-8-sig") as lines:
                    yield from _text_tables(file, lines, kind)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise TakedownError(f"{file} cannot be read ({error}): give text, csv, tsv or parquet.") from error


def _csv_batches(file: Path) -> Iterator[pa.RecordBatch]:
    parse = pyarrow.csv.ParseOptions(delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
    texts = {name: pa.string() for name in COLUMNS}
    with pyarrow.csv.open_csv(
        file, parse_options=parse, convert_options=pyarrow.csv.ConvertOptions(column_types=texts)
    ) as reader:
        _columns(file, reader.schema.names)
        yield from reader


def _columns(file: Path, names: Sequence[str]) -> list[str]:
    found = [name for name in names if name in COLUMNS]
    if not found:
        raise TakedownError(f"{file} has no column of {', '.join(COLUMNS)}: name its columns so.")
    return found


def _tables(file: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    first = 1
    for batch in batches:
        for name in batch.schema.names:
            if name in COLUMNS:
                values = pc.utf8_trim_whitespace(batch[name].cast(pa.string()))
                given = pc.and_(values.is_valid(), pc.not_equal(pc.fill_null(values, ""), ""))
                numbers = pa.array(range(first, first + len(values))).filter(given)
                yield _of_kind(COLUMNS[name], values.filter(given), numbers, f"row {{}} of {file}")
        first += len(batch)


def _text_tables(file: Path, lines: Iterable[str], kind: DenyKind | None) -> Iterator[pa.Table]:
    first, source = 1, iter(lines)
    while some := list(islice(source, ENTRIES_AT_ONCE)):
        texts = pc.utf8_trim_whitespace(pa.array(some, pa.string()))
        given = pc.invert(pc.match_substring_regex(texts, "^(#|$)"))
        numbers = pa.array(range(first, first + len(some))).filter(given)
        yield from _sorted_by_kind(file, texts.filter(given), numbers, kind)
        first += len(some)


def _sorted_by_kind(file: Path, texts: pa.Array, numbers: pa.Array, kind: DenyKind | None) -> Iterator[pa.Table]:
    left = pa.array([True] * len(texts), pa.bool_())
    for found, form in (
        (DenyKind.URL, "://"),
        (DenyKind.MD5, "^[0-9a-fA-F]{32}$"),
        (DenyKind.SHA1, "^[0-9a-fA-F]{40}$"),
        (kind, "^[0-9a-fA-F]{64}$"),
        (DenyKind.PAIR, "^-?[0-9]{1,20}$"),
        (DenyKind.HOST, ""),
    ):
        mine = pc.and_(left, pc.match_substring_regex(texts, form))
        left = pc.and_(left, pc.invert(mine))
        if not pc.any(mine).as_py():
            continue
        if found is None:
            number = numbers.filter(mine)[0].as_py()
            raise TakedownError(f"Line {number} of {file} may be a sha256 or a PDQ: say which with --kind.")
        yield _of_kind(found, texts.filter(mine), numbers.filter(mine), f"line {{}} of {file}")


def _of_kind(kind: DenyKind, texts: pa.Array, numbers: pa.Array, where: str) -> pa.Table:
    """Return entries of one kind; those that need no reading of each are made by whole columns."""
    if kind in HEX_DIGITS and kind is not DenyKind.URL:
        values = pc.utf8_lower(texts)
        good = pc.match_substring_regex(values, rf"^[0-9a-f]{{{HEX_DIGITS[kind]}}}$")
        if not pc.all(good).as_py():
            at = pc.index(good, False).as_py()
            deny_values(kind, texts[at].as_py(), where.format(numbers[at].as_py()))
    else:
        pairs = zip(texts.to_pylist(), numbers.to_pylist(), strict=True)
        values = pa.array(
            [value for text, number in pairs for value in deny_values(kind, text, where.format(number))], pa.string()
        )
    return pa.table([pa.array([kind.value] * len(values), pa.string()), values], schema=ENTRY_SCHEMA)
