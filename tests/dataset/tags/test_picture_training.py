"""Picture classifiers: groups stay in one split, a seed gives one file, and the card says what was measured."""

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageFilter
from typer.testing import CliRunner, Result

from dataset.errors import DatasetError
from dataset.main import app
from dataset.pictures.fingerprints import Fingerprint, fingerprint
from dataset.recipe.tags import Tag
from dataset.tags.accuracy import roc_auc
from dataset.tags.heads import read_head_file
from dataset.tags.labels import LabelledError
from dataset.tags.picture_augment import varied
from dataset.tags.picture_heads import PictureLayout, load_picture_head
from dataset.tags.picture_sets import near_groups, read_class_folders, split_groups
from dataset.tags.picture_training import LabelledPictures, PictureSchedule, train_classifier

SIDE = 32
LAYOUT = PictureLayout("test_byobnet", SIDE, ("dotted", "not dotted"))


def squares(count: int, seed: int = 0) -> tuple[Any, Any]:
    """Draw noisy squares, a third of which have a bright dot somewhere, often in a corner."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(60, 140, (count, SIDE, SIDE, 3), np.uint8)
    labels = (rng.random(count) < 1 / 3).astype(np.int64)
    for row in np.flatnonzero(labels):
        top, left = rng.choice((0, 12, SIDE - 8), 2)
        pixels[row, top : top + 8, left : left + 8] = 250
    return pixels, labels


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Train in one thread: on busy cores, threads wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(seed: int, count: int = 160, epochs: int = 4) -> Any:
    pixels, labels = squares(count)
    pictures = LabelledPictures(pixels, labels, np.ones(count))
    rows, schedule = np.arange(count), PictureSchedule(epochs, 16, 3e-3, seed=seed)
    return train_classifier(pictures, rows[: count * 3 // 4], rows[count * 3 // 4 :], LAYOUT, schedule, device="cpu")


def test_the_same_seed_gives_the_same_file_and_leaves_torchs_random_state() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, again, other = (trained(seed, 120, 1) for seed in (1, 1, 2))
    assert torch.rand(1) == expected
    files = [one.to_bytes(Tag.PWATERMARK, {}) for one in (first, again, other)]
    assert files[0] == files[1] != files[2]


def test_a_classifier_learns_a_mark_that_may_be_in_a_corner(tmp_path: Path) -> None:
    path = tmp_path / "dotted.safetensors"
    path.write_bytes(trained(0, 400, 6).to_bytes(Tag.PWATERMARK, {}))
    head = load_picture_head(read_head_file(path), "cpu")
    fresh, truth = squares(300, seed=9)
    assert roc_auc(head.score(fresh).astype(np.float64), truth) > 0.97
    assert head.layout.slope != 1.0


def test_nothing_is_cut_off_when_pictures_are_varied() -> None:
    pixels = np.full((64, SIDE, SIDE, 3), 100, np.uint8)
    for top, left in ((0, 0), (0, SIDE - 4), (SIDE - 4, 0), (SIDE - 4, SIDE - 4)):
        pixels[:, top : top + 4, left : left + 4] = 250
    seen = varied(torch.from_numpy(pixels), torch.Generator().manual_seed(0)).numpy().mean(axis=3)
    half = SIDE // 2
    for corner in (seen[:, :half, :half], seen[:, :half, half:], seen[:, half:, :half], seen[:, half:, half:]):
        assert (corner.max(axis=(1, 2)) - np.median(corner, axis=(1, 2)) > 60).all()
    assert seen.shape == (64, SIDE, SIDE)
    assert 0 <= seen.min() <= seen.max() <= 255


def test_groups_do_not_straddle_splits_and_labels_have_the_same_mix() -> None:
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(0, 400, 1_200))
    labels = (groups % 3 == 0).astype(np.int64)
    split = split_groups(labels, groups, seed=1)
    parts = (split.training, split.validation, split.test)
    assert sorted(np.concatenate(parts)) == list(range(1_200))
    sets = [set(groups[part].tolist()) for part in parts]
    assert not (sets[0] & sets[1])
    assert not (sets[0] & sets[2])
    assert not (sets[1] & sets[2])
    assert [len(part) / 1_200 for part in parts] == pytest.approx([0.7, 0.15, 0.15], abs=0.02)
    for part in parts:
        assert labels[part].mean() == pytest.approx(labels.mean(), abs=0.03)


def test_edits_of_a_picture_are_one_group() -> None:
    rng = np.random.default_rng(3)
    planes = [Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)) for _ in range(4)]
    pictures = [plane.resize((300, 260), Image.Resampling.BICUBIC) for plane in planes]
    edits = [picture.filter(ImageFilter.GaussianBlur(1)).resize((200, 180)) for picture in pictures]
    plain = Fingerprint(None, 0)
    found = [fingerprint(np.asarray(one)) for one in (*pictures, *edits)]
    assert near_groups([*found, plain, plain]).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 8, 8]


# --- the command


def saved(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder of two classes: files, a tar, a file that is no picture, and one that is damaged."""
    home = tmp_path_factory.mktemp("classes")
    pixels, labels = squares(240, seed=5)
    for name in ("dotted", "plain"):
        (home / name).mkdir()
    for row in range(180):
        (home / ("dotted" if labels[row] else "plain") / f"{row:03d}.png").write_bytes(saved(pixels[row]))
    for name, label in (("dotted", 1), ("plain", 0)):
        with tarfile.open(home / name / "some.tar", "w") as tar:
            for row in (180 + np.flatnonzero(labels[180:] == label)).tolist():
                about = json.dumps({"url": f"http://host-{row % 2}.example/{row}.png", "caption": "x"}).encode()
                for kind, data in (("json", about), ("png", saved(pixels[row]))):
                    member = tarfile.TarInfo(f"{row:03d}.{kind}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    (home / "plain" / "notes.txt").write_text("not a picture")
    (home / "plain" / "damaged.png").write_bytes(saved(pixels[0])[:60])
    return home


def run(folder: Path, out: Path, *more: str) -> Result:
    command = ["train-classifier", "--tag", "pwatermark", "--positive", "dotted", "--pictures", str(folder)]
    small = ["--architecture", "test_byobnet", "--side", "32", "--epochs", "4", "--batch", "16"]
    return CliRunner().invoke(app, [*command, "--out", str(out), *small, "--device", "cpu", *more])


def test_a_folder_of_classes_becomes_a_classifier_with_its_card(folder: Path, tmp_path: Path) -> None:
    told = run(folder, tmp_path / "out", "--prevalence", "0.06", "--json")
    assert told.exit_code == 0, told.output
    said = json.loads(told.stdout)
    assert said["prevalence"]["share"] == pytest.approx(0.06)
    head = load_picture_head(read_head_file(Path(said["head"])), "cpu")
    assert head.layout.classes == ("dotted", "not dotted")
    card = (tmp_path / "out" / "README.md").read_text()
    for sentence in ("1 labelled pictures are left out", "| training | 1", "ROC AUC", "Prevalence: 6.0 %", "| class |"):
        assert sentence in card
    scores = pq.read_table(tmp_path / "out" / "scores.parquet")
    assert scores.column_names == ["label", "weight", "score"]
    assert scores.num_rows == said["test_rows"]
    assert roc_auc(scores["score"].to_numpy(), scores["label"].to_numpy()) == pytest.approx(said["auc"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--positive", "striped"], "no pictures of striped"),
        (["--architecture", "hf-hub:a/b"], "timm has no architecture"),
        (["--tag", "aesthetic"], "Cannot train aesthetic"),
        (["--out", "/dev/null/x"], "Cannot make the folder"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_sentence(
    folder: Path, tmp_path: Path, change: list[str], sentence: str
) -> None:
    told = run(folder, tmp_path / "out", *change)
    assert isinstance(told.exception, DatasetError)
    assert sentence in str(told.exception)


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelledError, match="has 0 folders"):
        list(read_class_folders(tmp_path))
    with pytest.raises(LabelledError, match="Cannot read"):
        list(read_class_folders(tmp_path / "missing"))


def test_too_few_pictures_of_a_label_are_refused() -> None:
    with pytest.raises(LabelledError, match="training pictures have the label"):
        trained(0, 30, 1)
