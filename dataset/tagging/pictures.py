"""Tags of heads that read pictures: locate the rows' shards, list the tars that are kept, score a group of shards.

The tars are listed once, so a unit that is repeated reads what it read before. A picture is read from its tar in the
order of the tar.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import threadpoolctl

from dataset.dedup.arrays import Array, Arrays, in_sections, write_arrays
from dataset.formats.steps import UnitResult
from dataset.models.decoders import Decoders
from dataset.models.inputs import Pixels, Square
from dataset.select.pictures import KEY_POSITIONS, PictureTar, find_tars, picture_members, source_rows
from dataset.tagging.scores import put_scores
from dataset.tagging.work import Integers, Work
from dataset.tags.heads import Kind, Rows

if TYPE_CHECKING:
    from dataset.tags.picture_heads import PictureHead

SCORED_PICTURES = 256
"""Pictures that are decoded and scored together: 15 MB of received files, 50 MB of squares of 256 pixels."""
TARS = "tars.parquet"
NOT_KEPT, UNDECODABLE = "picture not kept", "picture undecodable"
_TARS_SCHEMA = pa.schema([("group", pa.int64()), ("input", pa.int64()), ("path", pa.string()), ("job", pa.int64())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictured:
    """The result of a group: how many rows were in its shards, and why some got no tag."""

    rows: int
    tagged: int
    undecodable: int


def locate(work: Work, at: int) -> UnitResult:
    """Write the inputs and keys of a data file's rows, in sections by group of shards.

    Raises: SelectError when `source/`, which is private, is missing; StoreError.
    """
    data = work.plan.data[at]
    ids = work.store.read_table(work.release.path(data.path), ["id"])["id"].to_numpy()
    inputs, keys = source_rows(work.release, ids)
    known = keys >= 0
    ids, inputs, keys = ids[known], inputs[known], keys[known]
    jobs = keys // KEY_POSITIONS
    order, offsets = in_sections(_groups(work, inputs, jobs), work.plan.groups)
    shards = np.unique(np.stack([inputs, jobs], axis=1), axis=0)
    arrays: dict[str, Array] = {"id": ids[order], "input": inputs[order], "key": keys[order], "offsets": offsets}
    write_arrays(work.store, work.path("locate", at), arrays | {"shards": shards})
    return UnitResult(len(ids), len(ids))


def list_tars(work: Work) -> UnitResult:
    """Write the tars in which pictures are still kept, by group.

    Raises: ManifestError, ReleaseError, StoreError when the store of an input cannot be read.
    """
    located = [Arrays(work.store, work.path("locate", at)) for at in range(len(work.plan.data))]
    shards = np.unique(np.concatenate([one.read("shards") for one in located]), axis=0)
    rows = []
    for number in np.unique(shards[:, 0]).tolist():
        jobs = shards[shards[:, 0] == number, 1]
        for tar in find_tars(work.release, work.release.record.inputs[number], jobs):
            group = int(_groups(work, np.array([number]), np.array([tar.job]))[0])
            rows.append({"group": group, "input": number, "path": tar.path, "job": tar.job})
    rows.sort(key=lambda row: (row["group"], row["input"], row["job"]))
    work.store.write_table(work.path(TARS), pa.Table.from_pylist(rows, schema=_TARS_SCHEMA))
    return UnitResult(len(shards), len(rows))


def score_group(work: Work, group: int) -> Pictured:
    """Write the tags of the pictures in a group's tars, by id.

    Raises: HeadError; StoreError.
    """
    from dataset.tags.picture_heads import load_picture_head  # torch takes seconds

    ids, inputs, keys = _rows_of(work, group)
    heads = {tag: load_picture_head(work.heads[tag].file) for tag in work.options.of_kind(Kind.PICTURE)}
    tagged = [np.empty(0, np.int64)]
    tags: dict[str, list[Rows]] = {tag: [np.empty(0, np.float32)] for tag in heads}
    undecodable = 0
    # torch has been loaded here, and its threads are limited like those of jobs.py
    with Decoders() as decoders, threadpoolctl.threadpool_limits(1):
        for number, tar in _tars(work, group):
            mine = (inputs == number) & (keys // KEY_POSITIONS == tar.job)
            id_of = {f"{key:015d}": one for key, one in zip(keys[mine].tolist(), ids[mine].tolist(), strict=True)}
            for members in _chunks(picture_members(tar, id_of)):
                good, scores = _score(heads, [data for _, _, data in members], decoders)
                tagged.append(np.array([id_of[key] for key, _, _ in members], np.int64)[good])
                undecodable += int(np.count_nonzero(~good))
                for tag, some in scores.items():
                    tags[tag].append(some)
    found = np.concatenate(tagged)
    put_scores(work, "pictures", group, found, {tag: np.concatenate(some) for tag, some in tags.items()})
    return Pictured(rows=len(ids), tagged=len(found), undecodable=undecodable)


def _score(
    heads: Mapping[str, "PictureHead"], pictures: Sequence[bytes], decoders: Decoders
) -> tuple[npt.NDArray[np.bool_], dict[str, Rows]]:
    """Return which of N pictures could be decoded, (N,) bool, and the tags of these, (M,) float32 by tag."""
    good = np.ones(len(pictures), np.bool_)
    squares: dict[int, Pixels] = {}
    for side in {head.side for head in heads.values()}:
        squares[side] = np.zeros((len(pictures), side, side, 3), np.uint8)
        for at, item in enumerate(decoders.each(Square(side), pictures)):
            if item is None or len(item) != squares[side][at].nbytes:
                good[at] = False
            else:
                squares[side][at] = np.frombuffer(item, np.uint8).reshape(side, side, 3)
    return good, {tag: head.score(squares[head.side][good]) for tag, head in heads.items()}


def _groups(work: Work, inputs: Integers, jobs: Integers) -> Integers:
    """Return the groups of shards; neighbouring jobs are in different ones, so that groups have about equal size."""
    found: Integers = (inputs + jobs) % work.plan.groups
    return found


def _rows_of(work: Work, group: int) -> tuple[Integers, Integers, Integers]:
    """Return ids, inputs and keys of a group's rows."""
    opened = [Arrays(work.store, work.path("locate", at)) for at in range(len(work.plan.data))]
    ids, inputs, keys = (
        np.concatenate([one.section(name, group, "offsets") for one in opened]) for name in ("id", "input", "key")
    )
    return ids, inputs, keys


def _tars(work: Work, group: int) -> Iterator[tuple[int, PictureTar]]:
    """Yield the inputs and tars of a group that still exist."""
    for row in work.store.read_table(work.path(TARS)).to_pylist():
        if row["group"] == group:
            store = work.release.input_store(work.release.record.inputs[row["input"]].store)
            if store.exists(row["path"]):
                yield row["input"], PictureTar(store, row["path"], row["job"])


def _chunks(members: Iterator[tuple[str, str, bytes]]) -> Iterator[Sequence[tuple[str, str, bytes]]]:
    while some := list(islice(members, SCORED_PICTURES)):
        yield some
