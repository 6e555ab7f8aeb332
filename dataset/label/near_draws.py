"""Draws through the index: pictures near prompts and examples, and hard negatives.

Of several near-duplicates among the results only the nearest is drawn. Among the results of a band the choice is
random, and the same for the same seed.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dataset.formats.label_files import DrawKind
from dataset.index.filters import parse_filter
from dataset.label.journal import LabelError
from dataset.label.scores import Score, rows_of
from dataset.label.tasks import EXAMPLE, Task
from dataset.select.candidates import balanced, priorities
from dataset.side_tables.rows import ReleaseRows

if TYPE_CHECKING:
    from dataset.index.lookup import Hits, Index

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""Returns the embeddings of texts by the model of the index, (N, D)."""


@dataclass(frozen=True, slots=True)
class NearItem:
    """A drawn picture: the prompt it is near to, its place among those near the prompt, and its cosine to it."""

    id: int
    draw: DrawKind
    prompt: str
    rank: int
    similarity: float


def draw_near_prompts(index: "Index", task: Task, embed: Embed) -> list[NearItem]:
    """Draw pictures near the prompts and examples of all classes; each once, by the first prompt that draws it.

    Raises: LabelError when an example is not in the index; SearchIndexError for a filter that does not fit the index.
    """
    draw = task.draws.prompts
    assert draw is not None
    where = parse_filter(draw.filter)
    prompts = [prompt for one in task.classes for prompt in one.all_prompts]
    examples = {id_ for one in task.classes for id_ in one.examples}
    found: dict[int, NearItem] = {}
    for prompt, query in zip(prompts, _vectors(index, prompts, embed), strict=True):
        (hits,) = index.search(query[None], min(draw.depth, max(1, index.record.rows)), where=where, collapse=True)
        for at in _choose(hits, draw.bands, draw.per_prompt, {*found, *examples}, task.seed, prompt):
            row, similarity = int(hits.ids[at]), float(hits.similarities[at])
            found[row] = NearItem(row, DrawKind.PROMPT, prompt, at, similarity)
    return [*found.values()]


def draw_hard_negatives(index: "Index", task: Task, rows: ReleaseRows, score: Score) -> list[NearItem]:
    """Draw pictures near the examples of a class that score low.

    Raises: LabelError when an example is not in the index.
    """
    draw = task.draws.hard_negatives
    assert draw is not None
    prompts = [f"{EXAMPLE}{one}" for one in task.find_class(draw.of).examples]
    examples = {id_ for one in task.classes for id_ in one.examples}
    near: dict[int, NearItem] = {}
    for prompt, query in zip(prompts, _vectors(index, prompts, lambda _: np.empty((0, 0), np.float32)), strict=True):
        (hits,) = index.search(query[None], draw.neighbours, collapse=True)
        for at, (row, similarity) in enumerate(zip(hits.ids.tolist(), hits.similarities.tolist(), strict=True)):
            if row not in examples and (row not in near or near[row].similarity < similarity):
                near[row] = NearItem(row, DrawKind.HARD_NEGATIVE, prompt, at, similarity)
    table = rows_of(rows, np.array(sorted(near), np.int64), score.columns)
    low = table["id"].to_numpy()[score.of(table) < draw.below]
    chosen = low[np.argsort(priorities(low, task.seed))][: draw.count]
    return [near[one] for one in chosen.tolist()]


def _vectors(index: "Index", prompts: Sequence[str], embed: Embed) -> list[npt.NDArray[np.float32]]:
    texts = [prompt for prompt in prompts if not prompt.startswith(EXAMPLE)]
    embedded = iter(embed(texts) if texts else ())
    found: list[npt.NDArray[np.float32]] = []
    for prompt in prompts:
        if not prompt.startswith(EXAMPLE):
            found.append(next(embedded))
            continue
        (vector,) = index.embeddings([int(prompt.removeprefix(EXAMPLE))])
        if not vector.any():
            raise LabelError(f"The example {prompt.removeprefix(EXAMPLE)} is not in the index: name another row's id.")
        found.append(vector.astype(np.float32))
    return found


def _choose(
    hits: "Hits", bands: Sequence[Sequence[float]], wanted: int, taken: set[int], seed: int, prompt: str
) -> list[int]:
    """Return the ranks of chosen results, in order: the same number from each band, more if another has too few."""
    free = ~np.isin(hits.ids, np.array([*taken], np.int64))
    order = priorities(hits.ids, seed + zlib.crc32(prompt.encode()))
    places = []
    for low, high in bands:
        inside = np.flatnonzero(free & (hits.similarities >= low) & (hits.similarities < high))
        free[inside] = False  # bands may overlap
        places.append(inside[np.argsort(order[inside])])
    counts = balanced(np.array([len(one) for one in places], np.int64), wanted)
    chosen = [one[:count] for one, count in zip(places, counts.tolist(), strict=True)]
    return sorted(np.concatenate(chosen).tolist())
