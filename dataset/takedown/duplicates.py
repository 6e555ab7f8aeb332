"""Groups of near-duplicates that lose members: counts and captions follow, and a removed representative is replaced.

    removed ids ─▶ their groups ─▶ members that are left ─▶ the best one represents ─▶ the others are scored against it

A member that is further than the threshold from its new representative is in a group of its own, or of those that are
near it: groups are by representative, never by chains. The new rows are worked out and written to the work's folder
before a file of the release is changed, because vectors of removed rows leave the embeddings afterwards.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.dedup.group_texts import MAX_CAPTIONS
from dataset.dedup.options import GREY_PDQ_DISTANCE, Options
from dataset.dedup.quality import columns_of, quality_keys
from dataset.dedup.rescore import STEP, cosine_steps, to_steps
from dataset.formats.duplicates import COLUMNS, KINDS, NAME, REPORT
from dataset.formats.npy import open_rows
from dataset.formats.release_embeddings import image_path, metadata_path
from dataset.formats.releases import Release
from dataset.formats.side_tables import SideTable, read_side_tables, side_schema
from dataset.formats.takedowns import TakedownError
from dataset.publish.hosts import hosts_of
from dataset.takedown.embeddings_files import folders
from dataset.takedown.plan import Removed, Work
from dataset.takedown.scan import Companions, rows_of_ids

Integers = npt.NDArray[np.int64]
Vectors = Mapping[int, npt.NDArray[np.float16]]

_SELF, _BYTES, _EXACT, _NEAR, _PDQ = KINDS
CHANGES = "duplicates.parquet"


@dataclass(frozen=True, slots=True)
class _Member:
    """A row of a group that stays."""

    row: dict[str, Any]
    """Its columns in the release."""
    quality: int
    """The lower, the better."""
    cosine: float
    kind: str


def write_changes(work: Work, gone: Removed) -> pa.Table:
    """Work out the rows of `duplicates` that change because others are removed; return them by id.

    Raises: TakedownError when the embeddings that the groups were made of are gone; StoreError. Called again, it
        returns what was worked out first.
    """
    path = work.path(CHANGES)
    if not work.store.exists(path):
        table = read_side_tables(work.release).get(NAME)
        changes = _changes(work.release, table, gone.ids) if table is not None and len(gone.ids) else []
        work.store.write_table(path, pa.Table.from_pylist(changes, schema=side_schema(COLUMNS)).sort_by("id"))
    return work.store.read_table(path)


def _changes(release: Release, table: SideTable, ids: Integers) -> list[dict[str, Any]]:
    groups = _touched_groups(release, table, ids)
    if not groups:
        return []
    options = _options(release)
    kept = [row for row in _members(release, table, groups) if row["id"] not in set(ids.tolist())]
    members = np.array(sorted(row["id"] for row in kept), np.int64)
    columns = {"URL", "TEXT", "similarity", "sha256", "pdq", *columns_of(options.quality)}
    rows = rows_of_ids(release, Companions(release), members, columns)
    qualities = dict(zip(rows["id"].to_pylist(), quality_keys(rows, options.quality).tolist(), strict=True))
    hosts = hosts_of(rows["URL"])
    named = dict(zip(rows["id"].to_pylist(), (hosts.names[one] for one in hosts.numbers.tolist()), strict=True))
    columns_by_id = {row["id"]: row | {"host": named[row["id"]]} for row in rows.to_pylist()}
    by_group: dict[int, list[_Member]] = defaultdict(list)
    for row in kept:
        member = _Member(columns_by_id[row["id"]], qualities[row["id"]], row["cosine"], row["kind"])
        by_group[row["representative"]].append(member)
    orphaned = {one for one in by_group if one in set(ids.tolist())}
    wanted = np.array(sorted(one.row["id"] for group in orphaned for one in by_group[group]), np.int64)
    vectors = _vectors(release, options.model, wanted)
    changed: list[dict[str, Any]] = []
    for representative, some in sorted(by_group.items()):
        if representative not in orphaned:
            changed += _rows(representative, some)
            continue
        for leader, group in _regrouped(some, vectors, options):
            changed += _rows(leader, group)
    return changed


def _options(release: Release) -> Options:
    """Return what the groups were made with."""
    try:
        return Options.from_json(json.loads(release.store.read(release.path(REPORT)))["options"])
    except (ValueError, KeyError) as error:
        raise TakedownError(
            f"{release.path(REPORT)} cannot be read ({error}): restore it, or run dataset dedup again, and apply again."
        ) from error


def _touched_groups(release: Release, table: SideTable, ids: Integers) -> set[int]:
    """Return the representatives of the groups of more than one row that have, or had, one of these rows."""
    found: set[int] = set()
    for file in table.files:
        rows = release.store.read_table(release.path(file.path), ["id", "representative", "group_size"])
        wanted = pa.array(ids)
        gone = pc.or_(pc.is_in(rows["id"], wanted), pc.is_in(rows["representative"], wanted))
        here = pc.and_(gone, pc.greater(rows["group_size"], 1))
        found.update(rows.filter(here)["representative"].to_pylist())
    return found


def _members(release: Release, table: SideTable, groups: set[int]) -> Iterator[dict[str, Any]]:
    wanted = pa.array(sorted(groups), pa.int64())
    for file in table.files:
        rows = release.store.read_table(release.path(file.path), ["id", "representative", "cosine", "kind"])
        yield from rows.filter(pc.is_in(rows["representative"], wanted)).to_pylist()


def _vectors(release: Release, model: str, ids: Integers) -> Vectors:
    """Return the pictures' vectors of rows by id.

    Raises: TakedownError when a row has none.
    """
    found: dict[int, npt.NDArray[np.float16]] = {}
    for folder in folders(release) if len(ids) else ():
        if folder.model != model:
            continue
        for at in range(folder.files):
            place = release.path(folder.path)
            known = release.store.read_table(f"{place}/{metadata_path(at)}", ["id"])["id"].to_numpy()
            here = np.flatnonzero(np.isin(known, ids))
            vectors = open_rows(release.store, f"{place}/{image_path(at)}") if len(here) else None
            for row in here.tolist() if vectors is not None else ():
                found[int(known[row])] = np.array(vectors.read(row, row + 1)[0], np.float16)  # type: ignore[union-attr]
    if len(found) < len(ids):
        raise TakedownError(
            f"embeddings/{model} lacks rows that are in groups of near-duplicates: make both anew (dataset embeddings, "
            "dataset dedup), and apply again."
        )
    return found


def _regrouped(members: Sequence[_Member], vectors: Vectors, options: Options) -> Iterator[tuple[int, list[_Member]]]:
    """Yield groups of a group that lost its representative: the best that is left, and who is near it."""
    left = sorted(members, key=lambda one: (one.quality, one.row["id"]))
    while left:
        leader, others = left[0], left[1:]
        name = leader.row["id"]
        group = [_Member(leader.row, leader.quality, 1.0, _SELF)]
        left = []
        mine = np.stack([vectors[one.row["id"]] for one in others]) if others else np.empty((0, 1), np.float16)
        steps = cosine_steps(mine, np.broadcast_to(vectors[name], mine.shape)) if others else np.empty(0, np.int16)
        for one, step in zip(others, steps.tolist(), strict=True):
            kind = _kind(leader.row, one.row, step, options)
            if kind is None:
                left.append(one)
            else:
                group.append(_Member(one.row, one.quality, step * STEP, kind))
        yield name, group


def _kind(leader: Mapping[str, Any], row: Mapping[str, Any], step: int, options: Options) -> str | None:
    """Return how a row belongs to the group of a leader; None if it is too far from it."""
    if step >= to_steps(options.at):
        if row["sha256"] is not None and row["sha256"] == leader["sha256"]:
            return _BYTES
        return _EXACT if step >= to_steps(1.0) else _NEAR
    if options.with_pdq and step >= to_steps(options.candidates_from) and row["pdq"] and leader["pdq"]:
        bits = (int.from_bytes(row["pdq"]) ^ int.from_bytes(leader["pdq"])).bit_count()
        return _PDQ if bits <= GREY_PDQ_DISTANCE else None
    return None


def _rows(representative: int, members: Sequence[_Member]) -> list[dict[str, Any]]:
    """Return the rows of a group in the side table."""
    size, weight = len(members), np.float32(1 / len(members))
    ordered = sorted(members, key=lambda one: (-(one.row["similarity"] or 0.0), one.row["id"]))
    captions: dict[str, float] = {}
    for one in ordered if size > 1 else ():
        if one.row["TEXT"] is not None and len(captions) < MAX_CAPTIONS:
            captions.setdefault(one.row["TEXT"], one.row["similarity"])
    texts = {
        "top_caption": next(iter(captions), ""),
        "captions": list(captions) or [""],
        "similarities": list(captions.values()) or [0.0],
        "hosts": len({one.row["host"] for one in members}),
    }
    none = dict.fromkeys(texts)
    return [
        {
            "id": one.row["id"],
            "representative": representative,
            "group_size": size,
            "cosine": one.cosine,
            "kind": one.kind,
            "weight_inverse": weight,
            "weight_inverse_sqrt": np.sqrt(weight),
        }
        | (texts if one.row["id"] == representative and size > 1 else none)
        for one in members
    ]
