"""`dataset select`: find the rows that match, make the cuts, and write the files of the selection."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from dataset.formats.json_records import to_json
from dataset.formats.release_parquet import table_writer
from dataset.formats.releases import SUBSETS
from dataset.formats.selections import FORMAT, RECORD, NearQuery, SelectionFile, SelectionRecord, part_path
from dataset.publish.hosts import hosts_of
from dataset.select.candidates import RECORD as CANDIDATE
from dataset.select.candidates import Candidates, descending, priorities
from dataset.select.errors import SelectError
from dataset.select.rules import Matcher, Rule, check_types, parse_rule
from dataset.side_tables.rows import ReleaseRows, RowGroup
from dataset.stats.threads import map_in_order
from dataset.store.store import Store
from dataset.takedown.screen import Screen

TAGS = ("pwatermark", "punsafe", "aesthetic")
"""Columns that are null in a release whose crawls had no head for them."""
MAX_VALUES = 10_000
"""Maximum number of distinct values of the column that --balance names."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of a selection; `TRUE` in `where` selects all rows."""

    where: str
    presets: tuple[str, ...] = ()
    sample: int | None = None
    seed: int = 0
    max_per_host: int | None = None
    balance: str | None = None
    top_share: float | None = None
    near: NearQuery | None = None
    """For the record; the rows are those of RowsNear."""
    masks: tuple[str, ...] = ()
    """For the record; the ids are those of `masked`."""
    rows_per_file: int = 2_500_000

    @property
    def has_cuts(self) -> bool:
        """Whether keeping a row depends on other rows."""
        return any(cut is not None for cut in (self.sample, self.max_per_host, self.top_share))

    @property
    def needed(self) -> list[str]:
        """The columns that the cuts read."""
        wanted = {"URL": self.max_per_host, "similarity": self.top_share}
        return [name for name, cut in wanted.items() if cut is not None] + ([self.balance] if self.balance else [])


@dataclass(frozen=True, slots=True)
class Selected:
    """The number of rows that match and of rows that are kept, by subset."""

    matched: Counter[str]
    kept: Counter[str]


class Selection:
    """A checked request on a release."""

    def __init__(
        self,
        rows: ReleaseRows,
        request: Request,
        *,
        screen: Screen | None = None,
        masked: npt.NDArray[np.int64] | None = None,
        threads: int = 1,
        memory_bytes: int = 1 << 30,
    ) -> None:
        """Check the request; rows that `screen` hides, or whose ids are in `masked`, sorted, are not in the selection.

        Raises: SelectError when the expression or an option cannot be used.
        """
        if request.balance is not None and request.sample is None:
            raise SelectError("--balance needs --sample N: it divides the N rows among the values of the column.")
        names = rows.schema.names
        if request.balance is not None and request.balance not in names:
            raise SelectError(f"The release has no column {request.balance} to balance, only {', '.join(names)}.")
        if request.balance is not None:
            _check_balance(rows.schema.field(request.balance))
        self.rule: Rule = parse_rule(request.where, names)
        check_types(self.rule, rows.schema)
        self._rows, self._request = rows, request
        self._screen, self._masked = screen, masked
        self._threads, self._memory = threads, memory_bytes
        self._local = threading.local()

    def count(self, on_progress: Progress = lambda *_: None) -> Selected:
        """Return how many rows match and are kept."""
        found = Selected(Counter(), Counter())
        for subset, _ in self._selected(found, [], on_progress):
            del subset
        return found

    def write(self, out: Store, on_progress: Progress = lambda *_: None) -> SelectionRecord:
        """Write the selection, its record last.

        Raises: SelectError when the folder contains other files, or no row is selected; StoreError.
        """
        _make_room(out)
        found = Selected(Counter(), Counter())
        schema = self._rows.selected_schema
        tables = (table for _, table in self._selected(found, schema.names, on_progress))
        files = list(_write_files(out, tables, schema, self._request.rows_per_file))
        if not files:
            raise SelectError(f"No row is selected: {self.why_none() or 'look at --where with --count'}.")
        request = self._request
        record = SelectionRecord(
            format=FORMAT,
            release=self._rows.release.record.name,
            version=self._rows.release.record.version,
            where=self.rule.sql,
            presets=request.presets,
            sample=request.sample,
            seed=request.seed,
            max_per_host=request.max_per_host,
            balance=request.balance,
            top_share=request.top_share,
            near=request.near,
            masks=request.masks,
            matched=found.matched.total(),
            rows=found.kept.total(),
            subsets={subset: found.kept[subset] for subset in SUBSETS if found.kept[subset]},
            files=tuple(files),
        )
        out.put(RECORD, to_json(record))
        return record

    def why_none(self) -> str | None:
        """Return the tag that the expression needs and no crawl of the release was given, as the rest of a sentence."""
        heads = [tags for one in self._rows.release.record.inputs for tags in one.tags.values()]
        missing = [name for name in TAGS if name in self.rule.columns and not any(tags.get(name) for tags in heads)]
        if not missing:
            return None
        return (
            f"no crawl of {self._rows.release.record.name} was tagged with {' and '.join(missing)}; tags made "
            f"elsewhere are added with dataset tags join, and are called tags.{missing[0]}"
        )

    def _selected(
        self, found: Selected, columns: Sequence[str], on_progress: Progress
    ) -> Iterator[tuple[str, pa.Table]]:
        """Yield the subset and rows of each row group that are kept, and count them in `found`."""
        groups = list(self._rows.row_groups())
        if not self._request.has_cuts:
            read = map_in_order(lambda group: self._matching(group, columns), groups, self._threads)
            for done, (group, table) in enumerate(zip(groups, read, strict=True), 1):
                found.matched[group.file.subset] += len(table)
                found.kept[group.file.subset] += len(table)
                on_progress("selecting", done, len(groups))
                yield group.file.subset, table
            return
        with Candidates(self._memory) as candidates:
            ends = self.fill(candidates, groups, found, on_progress)
            units = list(zip(groups, ends, ends[1:], strict=False))
            kept = map_in_order(lambda unit: self._kept(candidates, columns, *unit), units, self._threads)
            for done, (group, table) in enumerate(zip(groups, kept, strict=True), 1):
                found.kept[group.file.subset] += len(table)
                on_progress("writing", done, len(groups))
                yield group.file.subset, table

    def _matching(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """Return columns of the rows of a row group that match."""
        screened = sorted(self._screen.columns) if self._screen else []
        own = ["id"] if self._masked is not None else []
        wanted = list(dict.fromkeys((*columns, *self.rule.columns, *screened, *own))) or ["id"]
        rows = self._rows.read(group, wanted)
        if self._masked is not None and len(self._masked):
            ids = rows["id"].to_numpy()
            places = np.minimum(np.searchsorted(self._masked, ids), len(self._masked) - 1)
            rows = rows.filter(pa.array(self._masked[places] != ids))
        if screened and self._screen:
            rows = rows.filter(pa.array(~self._screen.hidden(rows)))
        return rows.filter(self._matcher().matches(rows)).select(list(columns) or wanted[:1])

    def _matcher(self) -> Matcher:
        """Return this thread's matcher."""
        if not hasattr(self._local, "matcher"):
            self._local.matcher = Matcher(self.rule)
        matcher: Matcher = self._local.matcher
        return matcher

    def fill(
        self, candidates: Candidates, groups: Sequence[RowGroup], found: Selected, on_progress: Progress
    ) -> list[int]:
        """Collect the rows that match and make the cuts; return the offsets at which each row group's candidates end,
        beginning with 0.
        """
        request, ends = self._request, [0]
        columns = list(dict.fromkeys(["id", *request.needed]))
        values: dict[str, int] = {}
        read = map_in_order(lambda group: self._matching(group, columns), groups, self._threads)
        for done, (group, rows) in enumerate(zip(groups, read, strict=True), 1):
            records = self._records(rows)
            if request.balance is not None:
                records["value"] = _numbers(rows[request.balance], values, request.balance)
            candidates.append(records)
            ends.append(candidates.rows)
            found.matched[group.file.subset] += len(rows)
            on_progress("matching", done, len(groups))
        candidates.finish()
        if request.max_per_host is not None:
            candidates.cut_per_host(request.max_per_host)
        if request.top_share is not None:
            candidates.cut_to_share(request.top_share)
        if request.sample is not None:
            candidates.sample(request.sample, max(1, len(values)))
        return ends

    def _records(self, rows: pa.Table) -> "np.ndarray[tuple[int], np.dtype[np.void]]":
        records = np.zeros(len(rows), CANDIDATE)
        records["id"] = rows["id"].to_numpy()
        records["priority"] = priorities(np.ascontiguousarray(records["id"]), self._request.seed)
        if self._request.max_per_host is not None and len(rows):
            hosts = hosts_of(rows["URL"])
            hashes = np.array([xxhash.xxh3_64_intdigest(name.encode()) for name in hosts.names], np.uint64)
            records["host"] = hashes[hosts.numbers]
        if self._request.top_share is not None:
            similarity = pc.fill_null(rows["similarity"].cast(pa.float64()), float("nan"))
            records["score"] = descending(similarity.to_numpy())
        return records

    def _kept(self, candidates: Candidates, columns: Sequence[str], group: RowGroup, start: int, end: int) -> pa.Table:
        """Return columns of those rows of a row group that the cuts kept."""
        ids = candidates.ids(start, end)
        wanted = list(columns) or ["id"]
        if not len(ids):
            schema = self._rows.schema
            return pa.schema([schema.field(name) for name in wanted]).empty_table()
        rows = self._rows.read(group, list(dict.fromkeys(("id", *wanted))))
        return rows.filter(pc.is_in(rows["id"], pa.array(ids))).select(wanted)


def _check_balance(field: pa.Field) -> None:
    if pa.types.is_nested(field.type) or pa.types.is_binary(field.type) or pa.types.is_fixed_size_binary(field.type):
        raise SelectError(
            f"{field.name} is of the type {field.type}, which has no values to balance: name a column such as LANGUAGE."
        )


def _numbers(
    column: pa.ChunkedArray, values: dict[str, int], name: str
) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return a number for each row's value; new values are added to `values`."""
    coded = pc.fill_null(column.cast(pa.string()), "").combine_chunks().dictionary_encode()
    numbers = np.array([values.setdefault(value, len(values)) for value in coded.dictionary.to_pylist()], np.int64)
    if len(values) > MAX_VALUES:
        raise SelectError(f"{name} has more than {MAX_VALUES:,} values: balance a column with fewer, such as LANGUAGE.")
    return numbers[coded.indices.to_numpy()] if len(numbers) else np.empty(0, np.int64)


def _make_room(out: Store) -> None:
    """Delete the files of an unfinished selection.

    Raises: SelectError when the folder contains anything else.
    """
    left = out.list()
    if RECORD in left:
        raise SelectError(f"{out.uri} contains a selection: name another folder, or delete this one.")
    strange = [path for path in left if not (path.startswith("part-") and path.endswith(".parquet"))]
    if strange:
        raise SelectError(f"{out.uri} contains other files, such as {strange[0]}: name an empty folder.")
    for path in left:
        out.delete(path)


def _write_files(
    out: Store, tables: Iterator[pa.Table], schema: pa.Schema, rows_per_file: int
) -> Iterator[SelectionFile]:
    """Write rows into files of `rows_per_file`."""
    waiting: pa.Table | None = next((table for table in tables if len(table)), None)
    at = 0
    while waiting is not None and len(waiting):
        with table_writer(out, part_path(at), schema) as writer:
            room = rows_per_file
            while room and waiting is not None:
                some = waiting.slice(0, room)
                writer.write(some)
                room -= len(some)
                waiting = waiting.slice(len(some))
                if not len(waiting):
                    waiting = next((table for table in tables if len(table)), None)
        yield SelectionFile(path=part_path(at), rows=writer.rows, bytes=writer.file.bytes, sha256=writer.file.sha256)
        at += 1
