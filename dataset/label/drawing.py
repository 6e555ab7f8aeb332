"""Draw the pictures of a task, and decide for each group of near-duplicates which split it belongs to.

    random draws (all rows, once)   ─┐
    near prompts, hard negatives     ├─▶ groups ─▶ splits ─▶ weights ─▶ a random order
      (the index)                   ─┘

A picture that was drawn at random stays that, and so does its whole group: pictures near prompts that are in a group of
a random draw are left out. So `test` is a random sample, and no picture of it has a near-duplicate in `train`.
"""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.formats.duplicates import NAME as DUPLICATES
from dataset.formats.label_files import DrawKind, Split
from dataset.label.drawn_file import FORMAT, SCHEMA, Drawn, DrawRecord
from dataset.label.journal import LabelError
from dataset.label.near_draws import Embed, NearItem, draw_hard_negatives, draw_near_prompts
from dataset.label.random_draws import RandomDraw, draw_random
from dataset.label.scores import Integers, Score, rows_of
from dataset.label.tasks import Task
from dataset.select.candidates import priorities
from dataset.side_tables.rows import ReleaseRows

if TYPE_CHECKING:
    from dataset.index.lookup import Index

_SPLIT_SEED, _ORDER_SEED = 1 << 40, 2 << 40
"""Added to the task's seed, so that the draws say nothing about splits and order."""


def draw(rows: ReleaseRows, task: Task, index: "Index | None", embed: Embed, threads: int = 1) -> Drawn:
    """Draw the pictures of a task; `index` is needed for pictures near others and for the scores of heads.

    Raises: LabelError when the task needs an index that is not there, or nothing was drawn; SideTableError.
    """
    draws = task.draws
    stratified = Score(draws.stratified.score, rows, index) if draws.stratified else None
    near: list[NearItem] = []
    if draws.prompts or draws.hard_negatives:
        if index is None:
            raise LabelError("Pictures near prompts need the release's index: run dataset index build.")
        if draws.prompts:
            near += draw_near_prompts(index, task, embed)
        if draws.hard_negatives:
            near += draw_hard_negatives(index, task, rows, Score(draws.hard_negatives.score, rows, index))
    at_random = draw_random(rows, draws.uniform, draws.stratified, stratified, task.seed, threads)
    table = _described(rows, np.array([*at_random.ids.tolist(), *(one.id for one in near)], np.int64))
    if not len(table):
        raise LabelError("No picture was drawn: draw more, or from wider bands of similarity.")
    random_rows, near_rows, left_out = _split(table, at_random, near, task)
    drawn = pa.Table.from_pylist([*random_rows, *near_rows], schema=SCHEMA)
    order = np.argsort(priorities(drawn["id"].to_numpy(), task.seed + _ORDER_SEED))
    record = DrawRecord(
        format=FORMAT,
        task=task.name,
        digest=task.digest,
        release=rows.release.record.name,
        version=rows.release.record.version,
        groups=DUPLICATES in rows.tables,
        strata=at_random.known,
        left_out=left_out,
    )
    return Drawn(record, drawn.take(order))


def share_of(groups: Integers, seed: int) -> npt.NDArray[np.float64]:
    """Return a number from 0 to 1 for each group, (N,) float64, the same for the same seed."""
    return priorities(groups, seed) / 2.0**64


def _described(rows: ReleaseRows, ids: Integers) -> dict[int, dict[str, object]]:
    """Return id, hash, sha256, similarity and group of rows, by id; without the table of near-duplicates a group is
    the rows whose pictures have the same bytes.
    """
    representative = f"{DUPLICATES}.representative"
    names = [name for name in ("hash", "sha256", "similarity", representative) if name in rows.schema.names]
    found: dict[int, dict[str, object]] = {}
    first_with: dict[object, int] = {}
    for row in rows_of(rows, ids, names).to_pylist():
        group = row.pop(representative, None)
        if group is None:
            group = first_with.setdefault(row["sha256"] or row["id"], row["id"])
        found[row["id"]] = row | {"group": group}
    return found


def _split(
    table: dict[int, dict[str, object]], at_random: RandomDraw, near: list[NearItem], task: Task
) -> tuple[list[dict[str, object]], list[dict[str, object]], dict[str, int]]:
    left_out: Counter[str] = Counter()
    random_rows: list[dict[str, object]] = []
    for row, stratum, uniform in zip(
        at_random.ids.tolist(), at_random.strata.tolist(), at_random.uniform.tolist(), strict=True
    ):
        validates = _chosen(table[row]["group"], task, task.random_validation)
        share = task.random_validation if validates else 1 - task.random_validation
        random_rows.append(
            table[row] | {
                "split": (Split.VALIDATION if validates else Split.TEST).value,
                "draw": (DrawKind.UNIFORM if uniform else DrawKind.STRATIFIED).value,
                "weight": 1 / (at_random.known[stratum].probability * share),
                "stratum": stratum,
            }
        )  # fmt: skip
    taken = {row["group"] for row in random_rows}
    near_rows: list[dict[str, object]] = []
    for one in near:
        if one.id not in table:
            left_out["not in the release"] += 1
            continue
        group = table[one.id]["group"]
        if group in taken:
            left_out["its group was drawn already"] += 1
            continue
        taken.add(group)
        split = Split.VALIDATION if _chosen(group, task, task.validation) else Split.TRAIN
        near_rows.append(
            table[one.id] | {"split": split.value, "draw": one.draw.value, "prompt": one.prompt, "rank": one.rank,
                             "similarity": one.similarity}
        )  # fmt: skip
    return random_rows, near_rows, dict(sorted(left_out.items()))


def _chosen(group: object, task: Task, share: float) -> bool:
    return bool(share_of(np.array([group], np.int64), task.seed + _SPLIT_SEED)[0] < share)
