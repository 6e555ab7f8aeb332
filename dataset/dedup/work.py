"""A search under way: its plan, and where its files lie.

    dedup/NAME/v1/{model}/state.json           the batches that are searched, and with which options; written last
                       parameters              projection, cells, kept share of distance; from the first batch
                       {batch}/sample/F                       rows of each file of embeddings; until `gather`
                       {batch}/ids/F  quality/D  layout/F     by file of embeddings or data; until the first `merge`
                       {batch}/borders                        numbers of quality between rounds
                       {batch}/copied/F.B                     blocks of embeddings by super-cell; as long
                       {batch}/home/S                         rows by super-cell; kept for later batches
                       {batch}/copy/S.npy                     embeddings in the order of these; kept for later batches
                       rounds/K/{new,merged,rest}/S  sweep    of a round
                       checked/S                              what was checked; kept for later batches
                       end/…                                  of the end, until it is there

A node names a row: its batch, its super-cell and its number there, in one int64. The folder can be deleted at any time;
then the next search begins with the first batch, and finds the same.

Only a batch of many rows, or in an object store, has a copy of its embeddings. `layout` and `gather` sort them in two
passes, each of which reads and writes all rows once.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dataset.dedup.arrays import MAX_OPEN, Arrays
from dataset.dedup.errors import DedupError
from dataset.dedup.options import Options
from dataset.dedup.rescore import FloatRows, Rescorer
from dataset.formats import versions
from dataset.formats.json_records import from_json
from dataset.formats.release_embeddings import RECORD, embeddings_path, find_embeddings, image_path, metadata_path
from dataset.formats.releases import FileKind, Release, ReleaseFile
from dataset.formats.versions import WorkKind

Integers = npt.NDArray[np.int64]

FORMAT = 3
COPY_FROM_ROWS = 5_000_000
"""From so many rows on, embeddings are copied in the order in which they are compared: 8 GB of 768 dimensions.

To read single rows in any order, of 5 to 12 pairs a row, is fast only while all of them are in the page cache: of 10
million rows, on a machine that had room for half, half an hour was not enough. 2 billion rows are 24 billion reads. In
an object store, where each is a request, all batches are copied. It saves about as much CPU time as it takes.
"""
ROUNDS = 7
"""Of a first batch: 1/64 of the rows, 1/64, 1/32, … 1/2."""
_ROUND_ROWS = 512
"""Rows of a first round, at least."""
_ONE_ROUND = 4
"""A batch of a quarter of the rows before it is one round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """A batch; its last round is for orphans alone."""

    name: str
    sha256: str
    """Of the record of its embeddings."""
    rows: tuple[int, ...]
    """Of each file of embeddings."""
    first_round: int
    rounds: int
    copied: bool
    """Whether the search has a copy of the embeddings in its own order."""

    @property
    def end_round(self) -> int:
        """The first round of the next batch."""
        return self.first_round + self.rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The content of state.json; `version` is the release's."""

    format: int
    model: str
    at: float
    careful: bool
    with_pdq: bool
    pdq_from: float
    quality: tuple[str, ...]
    super_cells: int
    cells: int
    version: str
    batches: tuple[BatchPlan, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All batches that have embeddings; those from `new_from` on are searched now."""

    batches: tuple[BatchPlan, ...]
    new_from: int
    super_cells: int

    @property
    def rounds(self) -> range:
        """The rounds that are done now."""
        first = self.batches[self.new_from].first_round if self.new_from < len(self.batches) else self.end_round
        return range(first, self.end_round)

    @property
    def end_round(self) -> int:
        """One more than the last round."""
        return self.batches[-1].end_round

    def batch_of_round(self, at: int) -> int:
        """Return the number of the batch whose rows are new in a round."""
        return next(number for number, batch in enumerate(self.batches) if at < batch.end_round)


class Work:
    """The files of a search, and what they are made from."""

    def __init__(self, release: Release, options: Options) -> None:
        """Plan the search.

        Raises: DedupError when there are no embeddings, or they are not those that were searched before.
        """
        self.release, self.options = release, options
        self.store = release.store
        self.folder = work_folder(release, options.model)
        self.plan = _make_plan(release, options, self.folder)
        self.data = [file for file in release.files(FileKind.DATA) if file.rows]
        self._homes: dict[tuple[int, int], Arrays] = {}
        self._rescorer: Rescorer | None = None

    def path(self, *names: object) -> str:
        """Return a path in the store."""
        return "/".join([self.folder, *map(str, names)])

    def open(self, *names: object) -> Arrays:
        """Open a file of arrays.

        Raises: StoreError when it is missing.
        """
        return Arrays(self.store, self.path(*names))

    def home(self, batch: int, super_cell: int) -> Arrays:
        """Open the rows of a batch in a super-cell."""
        if (batch, super_cell) not in self._homes:
            if len(self._homes) >= MAX_OPEN:
                self._homes.clear()
            self._homes[batch, super_cell] = self.open(self.plan.batches[batch].name, "home", super_cell)
        return self._homes[batch, super_cell]

    def images(self, batch: int, file: int) -> str:
        """Return the path in the store of a file of pictures' embeddings."""
        return self.release.path(
            f"{embeddings_path(self.options.model, self.plan.batches[batch].name)}/{image_path(file)}"
        )

    def metadata(self, batch: int, file: int) -> str:
        """Return the path in the store of the ids of a file of embeddings."""
        folder = embeddings_path(self.options.model, self.plan.batches[batch].name)
        return self.release.path(f"{folder}/{metadata_path(file)}")

    def data_of(self, batch: int) -> list[ReleaseFile]:
        """Return the data files of a batch."""
        return [file for file in self.data if file.batch == self.plan.batches[batch].name]

    def delete_new(self, *folders: str) -> None:
        """Delete folders of the new batches that no later step reads."""
        for batch in self.plan.batches[self.plan.new_from :]:
            for folder in folders:
                for path in self.store.list(self.path(batch.name, folder)):
                    self.store.delete(path)

    def rescorer(self) -> Rescorer:
        """Return what reads exact rows; it keeps their files mapped."""
        if self._rescorer is None:
            self._rescorer = Rescorer([self._floats(batch) for batch in range(len(self.plan.batches))])
        return self._rescorer

    def copy(self, batch: int, super_cell: int) -> str:
        """Return the path in the store of the copied embeddings of a home: first its rows, then the equal ones."""
        return self.path(self.plan.batches[batch].name, "copy", f"{super_cell}.npy")

    def _floats(self, batch: int) -> FloatRows:
        plan = self.plan.batches[batch]
        if plan.copied:
            supers = np.arange(self.plan.super_cells, dtype=np.int64)
            return FloatRows(self.store, [self.copy(batch, at) for at in supers.tolist()], supers << 32)
        return FloatRows(
            self.store, [self.images(batch, at) for at in range(len(plan.rows))], np.cumsum([0, *plan.rows[:-1]])
        )


def work_folder(release: Release, model: str) -> str:
    """Return the folder in the store of a search's work."""
    return f"{versions.work_folder(WorkKind.DEDUP, release.record.name, release.record.version)}/{model}"


def read_state(release: Release, model: str) -> State | None:
    """Return what was searched before with a model; None if nothing was.

    Raises: DedupError when the record is damaged or of another format.
    """
    path = f"{work_folder(release, model)}/state.json"
    if not release.store.exists(path):
        return None
    try:
        state = from_json(State, release.store.read(path))
    except ValueError as error:
        raise DedupError(f"{path} cannot be read ({error}): search anew with --restart.") from error
    if state.format != FORMAT:
        raise DedupError(f"{path} has the format {state.format}, not {FORMAT}: search anew with --restart.")
    return state


def nodes(batch: int, super_cell: int, at: Integers) -> Integers:
    """Return the names of rows."""
    return np.int64(batch << 48 | super_cell << 32) + at.astype(np.int64)


def split_nodes(found: Integers) -> tuple[Integers, Integers, Integers]:
    """Return the batches, super-cells and numbers of rows."""
    return found >> 48, found >> 32 & 0xFFFF, found & 0xFFFFFFFF


def round_shares(rounds: int) -> Integers:
    """Return the borders between doubling rounds as counts of 2^(rounds - 1): 1, 2, 4 … of them."""
    return np.array([1 << at for at in range(rounds - 1)], np.int64)


def default_super_cells(rows: int) -> int:
    """Return the number of super-cells: 16 for 1M rows, 1024 for 2 billion; a unit has that share of the rows."""
    return int(np.clip(1 << max(0, round(np.log2(max(1.0, np.sqrt(rows) / 62)))), 1, 1024))


def _make_plan(release: Release, options: Options, folder: str) -> Plan:
    state = read_state(release, options.model)
    known = state.batches if state else ()
    if state is not None and _asked(state) != _asked(options):
        raise DedupError(
            f"{folder} was searched at {state.at} with other options: repeat these, or begin anew with --restart."
        )
    found: list[BatchPlan] = []
    is_local = release.store.local_path(folder) is not None
    for batch in release.record.batches:
        record = find_embeddings(release, options.model, batch.name)
        if record is None or not record.rows:
            continue
        path = release.path(f"{embeddings_path(options.model, batch.name)}/{RECORD}")
        sha256 = hashlib.sha256(release.store.read(path)).hexdigest()
        images = sorted((file.path, file.rows) for file in record.files if file.path.startswith("img_emb/"))
        rows = tuple(rows for _, rows in images)
        before = sum(sum(one.rows) for one in found)
        doubling = int(np.clip(np.ceil(np.log2(max(1, sum(rows)) / _ROUND_ROWS)) + 1, 1, ROUNDS))
        rounds = (1 if before and sum(rows) * _ONE_ROUND <= before else doubling) + 1
        first = found[-1].end_round if found else 0
        copied = known[len(found)].copied if len(found) < len(known) else _is_copied(before + sum(rows), is_local)
        found.append(
            BatchPlan(name=batch.name, sha256=sha256, rows=rows, first_round=first, rounds=rounds, copied=copied)
        )
    if not found:
        raise DedupError(
            f"{release.record.name} has no embeddings of {options.model}: write them with dataset embeddings "
            "first, and name their folder below embeddings/."
        )
    if tuple(found[: len(known)]) != known:
        raise DedupError(f"The embeddings that {folder} was made from have changed: search anew with --restart.")
    super_cells = state.super_cells if state else options.super_cells or default_super_cells(sum(found[0].rows))
    return Plan(tuple(found), len(known), super_cells)


def _is_copied(rows: int, is_local: bool) -> bool:
    return rows >= COPY_FROM_ROWS or not is_local


def _asked(state: State | Options) -> tuple[object, ...]:
    return state.at, state.careful, state.with_pdq, state.pdq_from, state.quality
