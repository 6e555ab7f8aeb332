"""Why a row is in its group: the row, its representative, the criterion of quality that decided between them, and the
nearest row that is in another group.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.dedup.errors import DedupError
from dataset.dedup.options import Options
from dataset.dedup.path import MergePath, find_path
from dataset.dedup.quality import columns_of, quality_ranks
from dataset.dedup.rescore import STEP, cosine_steps
from dataset.dedup.rounds import pdq_distance
from dataset.dedup.vectors import Vectors
from dataset.formats.duplicates import NAME, REPORT
from dataset.formats.releases import FileKind, Release
from dataset.side_tables.rows import ReleaseRows

Integers = npt.NDArray[np.int64]
Nearest = Callable[[npt.NDArray[np.float16], int], Integers]
"""Returns the ids of the k rows nearest to a vector (D,), best first."""

_SHOWN = ("id", "URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "pwatermark", "punsafe", "hash", "sha256")
_TABLE = ("representative", "group_size", "cosine", "kind")
MOST_NEAREST = 1_000
"""Rows in which one of another group is looked for."""


@dataclass(frozen=True, slots=True)
class ExplainedRow:
    """A row of a release and its group."""

    id: int
    url: str
    caption: str
    width: int | None
    height: int | None
    similarity: float | None
    pwatermark: float | None
    punsafe: float | None
    representative: int
    group_size: int
    kind: str
    cosine: float
    """To its representative."""
    quality: dict[str, int]
    """Rank by each criterion, lower is better."""


@dataclass(frozen=True, slots=True)
class Compared:
    """Two rows: the cosine of their embeddings, and the bits in which their PDQ hashes differ."""

    a: int
    b: int
    cosine: float
    pdq: int | None
    """None when a picture has no hash, or the release has none."""
    same_bytes: bool
    better: int
    """The id that comes first in the order of quality."""
    decided_by: str
    """The criterion in which they differ first."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Rows, their representatives and neighbours by id, and the comparisons between them."""

    at: float
    order: tuple[str, ...]
    asked: tuple[int, ...]
    rows: dict[int, ExplainedRow]
    to_representative: dict[int, Compared]
    """By the id of a member that was asked for."""
    not_merged: dict[int, Compared | None]
    """By the id of a row that was asked for: the nearest row of another group; None if MOST_NEAREST have none."""
    pair: Compared | None
    """Of the two rows that were asked for."""
    paths: dict[int, MergePath | None]
    """By the id of a row that was asked for: how the search came to its representative."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return {"same_group": self.same_group} | asdict(self)

    @property
    def same_group(self) -> bool | None:
        """Whether the two rows are in one group; None for a single row."""
        if self.pair is None:
            return None
        return self.rows[self.pair.a].representative == self.rows[self.pair.b].representative


def read_options(release: Release) -> Options:
    """Return the options with which the near-duplicates of a release were found.

    Raises: DedupError when they were not searched for.
    """
    path = release.path(REPORT)
    if not release.store.exists(path):
        raise DedupError(
            f"{release.record.name} has no side table {NAME}: make it with dataset dedup {release.record.name} "
            "--model M."
        )
    return Options.from_json(json.loads(release.store.read(path))["options"])


def explain(release: Release, ids: Sequence[int], nearest: Nearest | None = None) -> Explanation:
    """Explain one or two rows; `nearest` is the index's search, None reads all embeddings.

    Raises: DedupError when a row is not in the side table; StoreError.
    """
    options = read_options(release)
    rows, vectors = ReleaseRows.open(release), Vectors(release, options.model)
    asked = tuple(dict.fromkeys(ids))
    found = read_by_id(rows, asked, options.quality)
    found |= read_by_id(rows, sorted({row["representative"] for row in found.values()} - set(found)), options.quality)
    search = nearest or (lambda vector, k: vectors.nearest(vector, k)[0])
    own = dict(zip(asked, vectors.take(np.array(asked, np.int64)), strict=True))
    others: dict[int, int | None] = {}
    for one in asked:
        group, size = found[one]["representative"], found[one]["group_size"]
        others[one], seen = _other_group(rows, search(own[one], min(size + 1, MOST_NEAREST)), group, options.quality)
        found |= seen
    compare = _Comparison(found, vectors, options.quality)
    return Explanation(
        at=options.at,
        order=options.quality,
        asked=asked,
        rows={one: _explained(row) for one, row in found.items()},
        to_representative={
            one: compare.of(one, found[one]["representative"]) for one in asked if found[one]["representative"] != one
        },
        not_merged={one: None if other is None else compare.of(one, other) for one, other in others.items()},
        pair=compare.of(asked[0], asked[1]) if len(asked) > 1 else None,
        paths={one: find_path(release, options, one) for one in asked},
    )


def read_by_id(rows: ReleaseRows, ids: Sequence[int], order: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Return rows by id: their columns, those of the side table, `pdq`, and `quality`, the rank by each criterion.

    Raises: DedupError when the release has no such row, or the side table does not have it.
    """
    wanted = np.unique(np.array(ids, np.int64))
    columns = list(dict.fromkeys([*_SHOWN, *columns_of(order), *(f"{NAME}.{name}" for name in _TABLE)]))
    if any(True for _ in rows.release.files(FileKind.EXTENDED)):
        columns.append("pdq")
    found: dict[int, dict[str, Any]] = {}
    for table in _read_some(rows, wanted, columns):
        ranks = quality_ranks(table, order)
        for at, row in enumerate(table.to_pylist()):
            named = {name.rpartition(".")[2]: value for name, value in row.items()}
            named["quality"] = {name: int(values[at]) for name, values in ranks.items()}
            found[row["id"]] = named
    for one in wanted.tolist():
        if one not in found:
            raise DedupError(f"{rows.release.record.name} {rows.release.record.version} has no row {one}.")
        if found[one]["representative"] is None:
            raise DedupError(f"Row {one} has no embedding, so it is in no group of near-duplicates.")
    return found


def _read_some(rows: ReleaseRows, wanted: Integers, columns: list[str]) -> list[pa.Table]:
    tables = []
    for file in rows.release.files(FileKind.DATA):
        if not ((wanted >= file.first_id) & (wanted <= file.last_id)).any():
            continue
        for group in rows.row_groups_of(file):
            low, high = rows.id_bounds(group)
            mine = wanted[(wanted >= low) & (wanted <= high)]
            if len(mine):
                table = rows.read(group, columns)
                tables.append(table.take(pa.array(np.flatnonzero(np.isin(table["id"].to_numpy(), mine)))))
    return tables


def _other_group(
    rows: ReleaseRows, candidates: Integers, group: int, order: Sequence[str]
) -> tuple[int | None, dict[int, dict[str, Any]]]:
    """Return the first candidate of another group, and its row."""
    start, step = 0, 16
    while start < len(candidates):
        some = candidates[start : start + step].tolist()
        found = read_by_id(rows, some, order)
        for one in some:
            if found[one]["representative"] != group:
                return one, {one: found[one]}
        start, step = start + step, 2 * step
    return None, {}


class _Comparison:
    def __init__(self, rows: dict[int, dict[str, Any]], vectors: Vectors, order: Sequence[str]) -> None:
        self._rows, self._order = rows, order
        ids = np.array(sorted(rows), np.int64)
        self._vectors = dict(zip(ids.tolist(), vectors.take(ids), strict=True))

    def of(self, a: int, b: int) -> Compared:
        left, right = self._rows[a], self._rows[b]
        steps = cosine_steps(self._vectors[a][None], self._vectors[b][None])
        better, decided_by = self._better(left, right)
        return Compared(
            a=a,
            b=b,
            cosine=round(float(steps[0]) * STEP, 4),
            pdq=_distance(left.get("pdq"), right.get("pdq")),
            same_bytes=left["sha256"] is not None and left["sha256"] == right["sha256"],
            better=better,
            decided_by=decided_by,
        )

    def _better(self, left: dict[str, Any], right: dict[str, Any]) -> tuple[int, str]:
        for name in self._order[:-1]:
            if left["quality"][name] != right["quality"][name]:
                return min(left, right, key=lambda row: int(row["quality"][name]))["id"], name
        return min(left, right, key=lambda row: (row["hash"], row["id"]))["id"], "hash"


def _distance(a: bytes | None, b: bytes | None) -> int | None:
    if not a or not b:
        return None
    return int(pdq_distance(np.frombuffer(a, np.uint8)[None], np.frombuffer(b, np.uint8)[None])[0])


def _explained(row: dict[str, Any]) -> ExplainedRow:
    return ExplainedRow(
        id=row["id"],
        url=row["URL"],
        caption=row["TEXT"],
        width=row["WIDTH"],
        height=row["HEIGHT"],
        similarity=row["similarity"],
        pwatermark=row["pwatermark"],
        punsafe=row["punsafe"],
        representative=row["representative"],
        group_size=row["group_size"],
        kind=row["kind"],
        cosine=round(row["cosine"], 4),
        quality=row["quality"],
    )
