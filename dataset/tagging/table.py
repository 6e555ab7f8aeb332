"""The table `tags`: from tags in sections to a file for each data file, then its record.

A row has `id`, `hash` and the tags, so a file can be joined by hash like those that LAION publishes. Columns that the
table had before and that no head computes now are kept.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from dataset.dedup.arrays import Array, Arrays
from dataset.formats.release_parquet import table_writer
from dataset.formats.releases import require_live
from dataset.formats.side_tables import (
    TAGS,
    SideFile,
    SideTable,
    TableHead,
    delete_side_files,
    read_side_tables,
    side_path,
    side_schema,
)
from dataset.formats.steps import UnitFile, UnitResult
from dataset.publish.record import refresh_card
from dataset.recipe.extra_columns import arrow_type, type_name
from dataset.side_tables.write import register_table
from dataset.tagging.errors import TaggingError
from dataset.tagging.pictures import NOT_KEPT, UNDECODABLE, Pictured
from dataset.tagging.work import Integers, Work
from dataset.tags.heads import CARD_SUFFIX, Kind

HASH = "hash"
NO_EMBEDDING = "no embedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """The result of a data file: the table's file, None without rows; tagged rows by tag."""

    file: SideFile | None
    rows: int
    """Of the data file."""
    tagged: Mapping[str, int]


def write_file(work: Work, at: int) -> WrittenFile:
    """Write the table's file that belongs to a data file.

    Raises: StoreError.
    """
    data = work.plan.data[at]
    rows = work.store.read_table(work.release.path(data.path), ["id", HASH])
    ids = rows["id"].to_numpy()
    columns: dict[str, pa.Array] = {"id": rows["id"], HASH: rows[HASH]}
    present = np.zeros(len(ids), np.bool_)
    old, places = _old_rows(work, at, ids)
    present |= places >= 0
    for field in _schema(work):
        if field.name in old.column_names:
            columns[field.name] = old[field.name].take(pa.array(places, mask=places < 0))
        elif field.name != HASH:
            columns[field.name] = pa.nulls(len(ids), field.type)
    tagged: dict[str, int] = {}
    for tag in sorted(work.options.heads):
        values, known = _tags(work, at, tag, ids)
        present |= known
        tagged[tag] = int(np.count_nonzero(known))
        columns[tag] = pa.array(values, mask=~known)
    if not present.any():
        return WrittenFile(file=None, rows=len(ids), tagged=tagged)
    schema = side_schema(_schema(work))
    table = pa.table([columns[name] for name in schema.names], schema=schema).filter(pa.array(present))
    path = side_path(work.release, TAGS, work.plan.generation, data)
    with table_writer(work.store, work.release.path(path), schema) as writer:
        writer.write(table)
    file = SideFile(path=path, data=data.path, rows=writer.rows, bytes=writer.file.bytes, sha256=writer.file.sha256)
    return WrittenFile(file=file, rows=len(ids), tagged=tagged)


def result_of(written: WrittenFile) -> UnitResult:
    """Return what a unit says of the file."""
    files = () if written.file is None else (UnitFile(written.file.path, written.file.rows, written.file.bytes),)
    return UnitResult(written.rows, written.file.rows if written.file else 0, files)


def finish(work: Work) -> UnitResult:
    """Write the model cards, register the table, and write the release's card anew.

    Raises: TaggingError when no row has a tag, or another command has written the table meanwhile; ReleaseError when
        rows were removed from the release meanwhile; StoreError.
    """
    plan, release = work.plan, work.release
    written = [work.result("write", at, WrittenFile) for at in range(len(plan.data))]
    files = tuple(one.file for one in written if one.file is not None)
    tagged = Counter[str]()
    for one in written:
        tagged.update(one.tagged)
    if not tagged.total():
        raise TaggingError(
            f"No row of {release.record.name} could be tagged: heads of pictures need pictures that are still kept, "
            "others need the embeddings of the release's rows."
        )
    rows = sum(one.rows for one in written)
    require_live(release, plan.version)
    known = read_side_tables(release).get(TAGS)
    if known == plan.kept:
        table = SideTable(
            name=TAGS,
            version=plan.version,
            generation=plan.generation,
            source=", ".join(choice.head for _, choice in sorted(work.options.heads.items())),
            columns={field.name: type_name(field.type) for field in _schema(work)},
            rows=sum(file.rows for file in files),
            files=files,
            heads=dict(_heads(work, tagged, rows)),
        )
        register_table(release, table)
        known = table
    elif known is None or known.generation != plan.generation or known.files != files:
        raise TaggingError(
            f"The side table {TAGS} was written by another command meanwhile: begin again with --restart."
        )
    if plan.kept is not None:
        delete_side_files(release, plan.kept, known)
    refresh_card(release)
    return UnitResult(rows, sum(file.rows for file in files))


def _heads(work: Work, tagged: Mapping[str, int], rows: int) -> Iterator[tuple[str, TableHead]]:
    """Write the model cards of the table's heads, and yield the heads by column."""
    kept_heads = work.plan.kept.heads if work.plan.kept else {}
    for name in _kept_columns(work):
        if name in kept_heads:
            head = kept_heads[name]
            yield name, _with_card(work, name, head, work.store.read(work.release.path(head.card)))
    undecodable = sum(work.result("pictures", at, Pictured).undecodable for at in range(work.plan.groups))
    for tag, choice in sorted(work.options.heads.items()):
        without = rows - tagged[tag]
        if choice.kind is Kind.EMBEDDING:
            left_out = {NO_EMBEDDING: without}
        else:
            left_out = {NOT_KEPT: without - undecodable, UNDECODABLE: undecodable}
        head = TableHead(
            head=choice.head,
            sha256=choice.sha256,
            kind=choice.kind.value,
            reads=work.options.model if choice.kind is Kind.EMBEDDING else "",
            rows=tagged[tag],
            left_out={reason: count for reason, count in left_out.items() if count},
            card="",
            card_sha256="",
        )
        yield tag, _with_card(work, tag, head, work.heads[tag].card)


def _with_card(work: Work, column: str, head: TableHead, card: bytes) -> TableHead:
    sha256 = hashlib.sha256(card).hexdigest()
    path = f"{TAGS}/{column}-{sha256[:12]}{CARD_SUFFIX}"
    work.store.put(work.release.path(path), card)
    return replace(head, card=path, card_sha256=sha256)


def _kept_columns(work: Work) -> list[str]:
    """Return the columns of the table before that stay."""
    kept = work.plan.kept
    return [name for name in kept.columns if name not in (HASH, *work.options.heads)] if kept else []


def _schema(work: Work) -> pa.Schema:
    """Return the table's columns: hash, then those that are kept, then the tags."""
    kept = work.plan.kept
    old = [(name, arrow_type(kept.columns[name])) for name in _kept_columns(work)] if kept else []
    return pa.schema([(HASH, pa.int64()), *old, *((tag, pa.float32()) for tag in sorted(work.options.heads))])


def _old_rows(work: Work, at: int, ids: Integers) -> tuple[pa.Table, Integers]:
    """Return the rows of the table before that belong to a data file, and for each id its place there, -1 if none."""
    names = _kept_columns(work)
    file = work.plan.kept.file_of(work.plan.data[at]) if work.plan.kept else None
    if file is None or not names:
        return pa.table({}), np.full(len(ids), -1, np.int64)
    rows = work.store.read_table(work.release.path(file.path), ["id", *names])
    known = rows["id"].to_numpy()
    places = np.minimum(np.searchsorted(known, ids), max(0, len(known) - 1))
    return rows.drop_columns(["id"]), np.where(known[places] == ids, places, -1)


def _tags(work: Work, at: int, tag: str, ids: Integers) -> tuple[Array, Array]:
    """Return a data file's values of a tag and whether a row has one -> (N,) float32, (N,) bool."""
    values, known = np.zeros(len(ids), np.float32), np.zeros(len(ids), np.bool_)
    plan = work.plan
    if work.options.heads[tag].kind is Kind.EMBEDDING:
        batch = plan.data[at].batch
        sources = [("score", unit) for unit, (file, _, _) in enumerate(plan.slices) if file.batch == batch]
    else:
        sources = [("pictures", unit) for unit in range(plan.groups)]
    for step, unit in sources:
        scores = Arrays(work.store, work.path(step, unit))
        mine = scores.section("id", at, "offsets")
        places = np.minimum(np.searchsorted(ids, mine), len(ids) - 1)
        there = ids[places] == mine  # rows that were removed are not
        values[places[there]] = scores.section(tag, at, "offsets")[there]
        known[places[there]] = True
    return values, known
