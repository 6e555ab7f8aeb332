"""Recall on known copies: edits of a release's own pictures go through prepare, the model and the join; the copies that
find the picture they were made of are counted.

The originals keep the embeddings that the release has. Each edit is a new batch, compared with the originals as with
representatives of earlier batches: with the projection, cells, gap and threshold of the search, in its own code. So the
recall of the index (copies whose cosine reaches the threshold) is that of a search over the whole release.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from threadpoolctl import threadpool_limits

from dataset import strict_json
from dataset.dedup.candidates import Rows
from dataset.dedup.cells import visits
from dataset.dedup.edits import EDITS, NEGATIVES, Edit
from dataset.dedup.errors import DedupError
from dataset.dedup.leader_join import Judge, Places, Records, nearest_leaders
from dataset.dedup.options import GREY_PDQ_DISTANCE, Options
from dataset.dedup.prepare import read_cells
from dataset.dedup.projection import code_threshold, encode
from dataset.dedup.rescore import STEP, cosine_steps, to_steps
from dataset.dedup.vectors import Vectors
from dataset.dedup.work import Work
from dataset.formats.duplicates import KINDS, NAME, PLANT
from dataset.formats.halves import widen
from dataset.formats.releases import Release
from dataset.pictures.open_stored import open_stored
from dataset.pictures.pdq import pdq_of
from dataset.pictures.picture import Picture
from dataset.pictures.prepare import prepare
from dataset.recipe.image_rules import ImageRules
from dataset.select.candidates import priorities
from dataset.select.pictures import read_kept
from dataset.side_tables.rows import ReleaseRows
from dataset.tags.wilson import wilson

Halves = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]

RULES = ImageRules(min_bytes=0)
"""The download's defaults; kept pictures are small already, so that copies of them would count as icons."""
_AT_ONCE = 32
_DRAWN_FOR_EACH = 4
"""Rows that are drawn for each picture that is wanted: not all are kept."""


class Embedder(Protocol):
    """A model of pictures."""

    def embed_images(self, images: Sequence[Image.Image]) -> Floats:
        """Return the embeddings -> (N, D) float32 unit rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditResult:
    """What became of the copies that one edit made."""

    edit: str
    is_copy: bool
    """False for another picture that is close: finding it is an error."""
    pairs: int
    refused: int
    """Copies that the download would refuse; they are not among the pairs."""
    cosine: tuple[float, float, float]
    """Quantiles .05, .5 and .95."""
    at_threshold: int
    """Pairs whose cosine reaches the threshold."""
    at_threshold_found: int
    """Of these, how many the join found."""
    found: int
    """Pairs that the join found, also under another original."""
    by_pdq: int
    """Pairs of at least --pdq-from whose PDQ hashes agree, found or not: with --with-pdq these are members."""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON's types, with both recalls and their Wilson intervals."""
        shares = {"index_recall": (self.at_threshold_found, self.at_threshold), "recall": (self.found, self.pairs)}
        return asdict(self) | {
            name: {
                "share": round(hits / tries, 6) if tries else None,
                "interval": [round(bound, 6) for bound in wilson(hits, tries)],
            }
            for name, (hits, tries) in shares.items()
        }


@dataclass(frozen=True, slots=True)
class _Planted:
    """A copy: the number of its original, its PDQ in hex and its picture as it would be stored."""

    original: int
    pdq: str | None
    image: Image.Image


def draw_pictures(release: Release, count: int, seed: int = 0) -> dict[int, bytes]:
    """Return pictures by id of up to `count` random representatives whose pictures are still kept.

    Raises: DedupError when none is; StoreError.
    """
    rows = ReleaseRows.open(release)
    ids, drawn = np.empty(0, np.int64), np.empty(0, np.uint64)
    for group in rows.row_groups():
        table = rows.read(group, ["id", f"{NAME}.kind"])
        some = table["id"].to_numpy()[np.array(table[f"{NAME}.kind"].to_pylist(), object) == KINDS[0]]
        ids, drawn = np.concatenate([ids, some]), np.concatenate([drawn, priorities(some, seed)])
        lowest = np.argsort(drawn)[: count * _DRAWN_FOR_EACH]
        ids, drawn = ids[lowest], drawn[lowest]
    kept = read_kept(release, np.sort(ids))
    chosen = [one for one in ids.tolist() if one in kept][:count]
    if len(chosen) < 2:
        raise DedupError(
            f"{release.record.name} has no pictures to plant copies of: they are deleted on schedule. Keep those of a "
            "crawl with tracker keep-shards, and publish it."
        )
    return {one: kept[one] for one in chosen}


def plant(
    release: Release,
    options: Options,
    model: Embedder,
    pictures: Mapping[int, bytes],
    on_progress: Progress = lambda *_: None,
) -> list[EditResult]:
    """Plant each edit of the pictures, by id, and return the results of all edits.

    Raises: DedupError when the model is not that of the release's embeddings.
    """
    opened = {one: image for one, data in pictures.items() if (image := open_stored(data)) is not None}
    ids, images = np.array(list(opened), np.int64), list(opened.values())
    join = _Join(Work(release, options), Vectors(release, options.model).take(ids))
    with threadpool_limits(1, "blas"):
        hashes = [pdq_of(np.asarray(image)) for image in images]
    results: list[EditResult] = []
    edits = [(name, edit, True) for name, edit in EDITS.items()]
    edits += [(name, edit, False) for name, edit in NEGATIVES.items()]
    for done, (name, edit, is_copy) in enumerate(edits, 1):
        refused = Counter[str]()
        with threadpool_limits(1, "blas"):  # PDQ of a small picture takes 14 ms with threads, and 0.15 with one
            planted, vectors = _embedded(model, _planted(edit, images, refused))
        if not results:
            _check_same_model(join, planted, vectors)
        results.append(_result(name, is_copy, join, hashes, planted, vectors, refused.total(), options))
        on_progress("planting", done, len(edits))
    return results


def write_results(release: Release, results: Sequence[EditResult], options: Options, pictures: int) -> bytes:
    """Write the results beside the table, for the report; return the JSON."""
    said = {
        "release": release.record.name,
        "version": release.record.version,
        "options": options.to_json(),
        "pictures": pictures,
        "edits": [one.to_json() for one in results],
    }
    data = (strict_json.dumps(said, indent=1) + "\n").encode()
    release.store.put(release.path(PLANT), data)
    return data


def _planted(edit: Edit, images: Sequence[Image.Image], refused: Counter[str]) -> Iterator[_Planted]:
    for at, own in enumerate(images):
        file = io.BytesIO()
        edit(own, images[(at + 1) % len(images)]).save(file, "JPEG", quality=95)
        made = prepare(file.getvalue(), RULES)
        image = open_stored(made.data) if isinstance(made, Picture) else None
        if image is None:
            refused[str(made)[:40]] += 1
        else:
            yield _Planted(at, pdq_of(np.asarray(image)), image)


def _embedded(model: Embedder, planted: Iterator[_Planted]) -> tuple[list[_Planted], Halves]:
    """Return the copies without their pictures, and their embeddings as a release has them."""
    found: list[_Planted] = []
    vectors = []
    while some := list(islice(planted, _AT_ONCE)):
        vectors.append(model.embed_images([one.image for one in some]).astype(np.float16))
        found += some
    return found, np.concatenate(vectors) if vectors else np.empty((0, 1), np.float16)


class _Join:
    """The join of a new batch with the originals."""

    def __init__(self, work: Work, originals: Halves) -> None:
        self.originals = originals
        parameters = work.open("parameters")
        self._projection, self._cells = parameters.read("projection"), read_cells(work)
        self._gap, self._at = work.options.gap, work.options.at
        self._from = code_threshold(work.options.at - STEP / 2, float(parameters.read("kept")[0]))
        self._old = self._side(originals)

    def nearest(self, vectors: Halves) -> Integers:
        """Return the original that represents each row -> (N,), -1 for none."""
        found = np.full(len(vectors), -1, np.int64)
        records: Records = nearest_leaders(self._side(vectors), self._old, self._from, self._judge(vectors))
        found[records["row"]] = records["leader"]
        return found

    def _judge(self, vectors: Halves) -> Judge:
        def judge(new: Integers, old: Integers) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
            cosines = cosine_steps(vectors[new], self.originals[old])
            return cosines, cosines >= to_steps(self._at)

        return judge

    def _side(self, vectors: Halves) -> tuple[Rows, Places, Places]:
        codes = widen(encode(vectors, self._projection))
        numbers = np.arange(len(vectors))
        home, rows, visited = visits(codes, self._cells, self._gap)
        places = Places.of(home, numbers), Places.of(visited, rows)
        return (Rows(codes, numbers, np.zeros(len(vectors), np.uint64), numbers), *places)


def _result(
    name: str,
    is_copy: bool,
    join: _Join,
    hashes: Sequence[str | None],
    planted: Sequence[_Planted],
    vectors: Halves,
    refused: int,
    options: Options,
) -> EditResult:
    originals = np.array([one.original for one in planted], np.int64)
    steps = cosine_steps(vectors, join.originals[originals]) if len(planted) else np.empty(0, np.int16)
    found = join.nearest(vectors) >= 0 if len(planted) else np.empty(0, bool)
    reaches = steps >= to_steps(options.at)
    same = np.array([_agree(one.pdq, hashes[one.original]) for one in planted], bool)
    quantiles = np.quantile(steps * STEP, [0.05, 0.5, 0.95]).round(4).tolist() if len(planted) else [0.0] * 3
    return EditResult(
        edit=name,
        is_copy=is_copy,
        pairs=len(planted),
        refused=refused,
        cosine=(quantiles[0], quantiles[1], quantiles[2]),
        at_threshold=int(reaches.sum()),
        at_threshold_found=int((reaches & found).sum()),
        found=int(found.sum()),
        by_pdq=int((same & (steps >= to_steps(options.pdq_from))).sum()),
    )


def _agree(a: str | None, b: str | None) -> bool:
    return a is not None and b is not None and (int(a, 16) ^ int(b, 16)).bit_count() <= GREY_PDQ_DISTANCE


def _check_same_model(join: _Join, planted: Sequence[_Planted], vectors: Halves) -> None:
    """Raise DedupError unless the unchanged pictures have about the embeddings that the release has."""
    originals = np.array([one.original for one in planted], np.int64)
    if len(planted) and vectors.shape[1] == join.originals.shape[1]:
        median = float(np.median(cosine_steps(vectors, join.originals[originals]))) * STEP
        if median >= 0.98:
            return
        said = f"unchanged pictures have a cosine of {median:.3f} to their own embeddings"
    else:
        said = "it has another number of dimensions"
    raise DedupError(f"This is not the model of the release's embeddings: {said}. Name its weights with --pretrained.")
