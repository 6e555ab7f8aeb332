"""`dataset dedup plant` with drawn pictures and a model that averages their colours."""

import io
import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from typer.testing import CliRunner

from dataset.dedup.edits import EDITS, NEGATIVES
from dataset.dedup.errors import DedupError
from dataset.dedup.options import Options
from dataset.dedup.plant import EditResult, plant, write_results
from dataset.dedup.run import search
from dataset.formats.duplicates import PLANT
from dataset.formats.releases import Release
from dataset.main import app
from dataset.store.store import Store
from dataset.tags.wilson import wilson
from tests.planted import MODEL, put_release

PICTURES, CELLS = 12, 6
Floats = npt.NDArray[np.float32]


class Averages:
    """A model whose embedding is the picture at 6 by 6 pixels, less grey."""

    def __init__(self, cells: int = CELLS) -> None:
        self._cells = cells

    def embed_images(self, images: Sequence[Image.Image]) -> Floats:
        size = (self._cells, self._cells)
        small = [np.asarray(one.resize(size, Image.Resampling.BOX), np.float32).ravel() - 127.5 for one in images]
        rows = np.stack(small)
        found: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return found


def picture(seed: int) -> bytes:
    blocks = np.random.default_rng(seed).integers(0, 256, (CELLS, CELLS, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((192, 144), Image.Resampling.BICUBIC).save(file, "JPEG", quality=92)
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures() -> dict[int, bytes]:
    return {seed: picture(seed) for seed in range(PICTURES)}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, pictures: dict[int, bytes]) -> Release:
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in pictures.values()]
    vectors = Averages().embed_images(images).astype(np.float16)
    made = put_release(Store.open(str(tmp_path_factory.mktemp("plant"))), "laion", [vectors])
    search(made, OPTIONS)
    return made


OPTIONS = Options(model=MODEL, at=0.94, cells=8, super_cells=2)


@pytest.fixture(scope="module")
def results(release: Release, pictures: dict[int, bytes]) -> dict[str, EditResult]:
    return {one.edit: one for one in plant(release, OPTIONS, Averages(), pictures)}


def test_every_edit_is_planted_once_for_each_picture(results: dict[str, EditResult]) -> None:
    assert list(results) == [*EDITS, *NEGATIVES]
    assert {one.pairs + one.refused for one in results.values()} == {PICTURES}
    assert [one.edit for one in results.values() if not one.is_copy] == list(NEGATIVES)


def test_light_edits_are_found_and_a_turned_picture_is_not(results: dict[str, EditResult]) -> None:
    for name in ("unchanged", "JPEG 30", "half size", "WebP 50"):
        assert (results[name].found, results[name].at_threshold_found) == (PICTURES, PICTURES)
    assert results["rotation 180"].found < PICTURES // 4
    assert results["unchanged"].cosine[0] > results["template, 25 % other"].cosine[1]


def test_the_join_finds_what_reaches_the_threshold(results: dict[str, EditResult]) -> None:
    for one in results.values():
        assert one.at_threshold_found <= one.at_threshold <= one.pairs
        assert one.at_threshold_found <= one.found
        assert one.at_threshold_found >= 0.95 * one.at_threshold


def test_results_are_written_with_intervals(release: Release, results: dict[str, EditResult]) -> None:
    write_results(release, list(results.values()), OPTIONS, PICTURES)
    said = json.loads(release.store.read(release.path(PLANT)))
    first = said["edits"][0]
    assert first["recall"]["share"] == 1.0
    assert first["recall"]["interval"] == [pytest.approx(bound, abs=1e-6) for bound in wilson(PICTURES, PICTURES)]


def test_another_model_is_refused(release: Release, pictures: dict[int, bytes]) -> None:
    with pytest.raises(DedupError, match="another number of dimensions"):
        plant(release, OPTIONS, Averages(5), pictures)
    shifted = {one: picture(one + 1000) for one in pictures}
    with pytest.raises(DedupError, match="unchanged pictures have a cosine"):
        plant(release, OPTIONS, Averages(), shifted)


def test_command_draws_kept_pictures_and_prints_a_line_an_edit(
    release: Release, pictures: dict[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataset.models.clip.load_model", lambda *_: Averages())
    monkeypatch.setattr(
        "dataset.dedup.plant.read_kept", lambda _, ids: {one: pictures[one] for one in ids.tolist()[1:]}
    )
    words = ["dedup", "plant", "laion", "--pictures", "3", "--pretrained", "weights", "--store", release.store.uri]
    run = CliRunner().invoke(app, words, catch_exceptions=False)
    lines = run.stdout.splitlines()
    assert lines[0] == "3 pictures of laion 1.0.0, threshold 0.94"
    assert len(lines) == 2 + len(EDITS) + len(NEGATIVES)
    assert lines[2].startswith("unchanged")
    monkeypatch.setattr("dataset.dedup.plant.read_kept", lambda *_: {})
    with pytest.raises(DedupError, match="no pictures to plant copies of"):
        CliRunner().invoke(app, words, catch_exceptions=False)


@pytest.mark.parametrize(("hits", "tries", "low", "high"), [(0, 0, 0, 1), (381, 381, 0.99, 1), (0, 10, 0, 0.2775)])
def test_wilson_intervals_are_the_published_ones(hits: int, tries: int, low: float, high: float) -> None:
    assert list(wilson(hits, tries)) == pytest.approx([low, high], abs=2e-4)
