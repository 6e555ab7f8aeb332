"""Matching pictures that were made from a release's own, by a model that averages colours."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner

from dataset.dedup.options import Options
from dataset.dedup.run import search
from dataset.formats.releases import Release
from dataset.main import app
from dataset.match.hashes import Hit, hash_hits, words_of
from dataset.match.match import MatchError, Matches, match_pictures
from dataset.match.page import render
from dataset.match.pixels import SIDE, align, square, template_mask
from dataset.match.prompts import PromptError, of_pictures
from dataset.match.verdicts import VERBATIM_RMS, Match, Verdict, with_evidence
from dataset.pictures.pdq import pdq_of
from dataset.side_tables.rows import ReleaseRows
from dataset.store.store import Store
from tests.dataset.dedup.test_plant import Averages
from tests.planted import MODEL, put_release

OPTIONS = Options(model=MODEL, at=0.90)
Bytes = npt.NDArray[np.uint8]


def smooth(seed: int, cells: int = 6) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, (cells, cells, 3), np.uint8)
    return Image.fromarray(blocks).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def template(seed: int) -> Image.Image:
    """Another small middle in the frame of picture 100."""
    made = smooth(100)
    made.paste(smooth(seed).resize((72, 72)), (92, 92))
    return made


ROWS = [smooth(seed) for seed in range(8)] + [template(seed) for seed in (201, 202, 203, 204)]
"""Rows 8 to 11 are a family with a template."""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    vectors = Averages().embed_images(ROWS).astype(np.float16)
    hashes = [bytes.fromhex(pdq_of(np.asarray(one)) or "") for one in ROWS]
    made = put_release(Store.open(str(tmp_path_factory.mktemp("match"))), "laion", [vectors], pdq=hashes)
    search(made, OPTIONS)
    return made


def kept(ids: npt.NDArray[np.int64]) -> Mapping[int, bytes]:
    return {one: png(ROWS[one]) for one in ids.tolist() if one != 5}  # the picture of row 5 is deleted


@pytest.fixture(scope="module")
def matches(release: Release) -> Matches:
    noisy = np.clip(np.asarray(ROWS[0], np.int16) + np.random.default_rng(0).integers(-12, 12, (SIDE, SIDE, 3)), 0, 255)
    pictures = {
        "noisy.png": png(Image.fromarray(noisy.astype(np.uint8))),
        "mirrored.png": png(ImageOps.mirror(ROWS[1])),
        "shifted.png": png(Image.fromarray(np.roll(np.asarray(ROWS[2]), 3, axis=1))),
        "template.png": png(template(900)),
        "gone.png": png(ROWS[5]),
        "unrelated.png": png(smooth(7_000)),
        "text.txt": b"no picture",
    }
    return match_pictures(release, OPTIONS, Averages(), pictures.items(), kept)


@pytest.mark.parametrize(
    ("picture", "verdict", "row"),
    [
        ("noisy.png", Verdict.VERBATIM, 0),
        ("mirrored.png", Verdict.VERBATIM, 1),
        ("shifted.png", Verdict.VERBATIM, 2),
        ("gone.png", Verdict.CANDIDATE, 5),
        ("unrelated.png", Verdict.NONE, None),
    ],
)
def test_verdicts_are_about_pixels(matches: Matches, picture: str, verdict: Verdict, row: int | None) -> None:
    (match,) = [one for one in matches.matches if one.picture == picture]
    assert (match.verdict, match.id) == (verdict, row)
    assert match.mirrored is (picture == "mirrored.png" if verdict is Verdict.VERBATIM else None)


def test_frame_of_a_family_is_a_template(matches: Matches) -> None:
    (match,) = [one for one in matches.matches if one.picture == "template.png"]
    assert match.representative in range(8, 12)
    assert match.group_size == 4
    assert match.masked_rms is not None
    assert match.masked_rms < 0.01
    assert match.template_share is not None
    assert match.template_share > 0.8
    assert match.verdict is Verdict.TEMPLATE
    assert match.rms is not None
    assert match.rms < VERBATIM_RMS  # the frame is most of the picture


def test_pictures_that_cannot_be_read_are_named_and_copies_come_first(matches: Matches) -> None:
    assert matches.unreadable == ("text.txt",)
    verdicts = [list(Verdict).index(one.verdict) for one in matches.matches]
    assert verdicts == sorted(verdicts)
    assert set(matches.shown) >= {"noisy.png", "mirrored.png", "template.png"}


def test_hashes_find_rows_without_a_model(release: Release) -> None:
    rows = ReleaseRows.open(release)
    digests = next(iter(rows.row_groups()))
    sha256 = rows.read(digests, ["sha256"])["sha256"].to_pylist()
    pictures = [ROWS[1], ImageOps.mirror(ROWS[2]), smooth(7_000)]
    plain, mirrored = (
        words_of([pdq_of(np.asarray(one)) for one in some])
        for some in (pictures, [ImageOps.mirror(one) for one in pictures])
    )
    seen: list[int] = []
    found = hash_hits(rows, [sha256[3], "f" * 64, "f" * 64], plain, mirrored, seen.append)
    assert found == [[Hit(0, 3, True), Hit(0, 1, False)], [Hit(0, 2, False)], []]
    assert seen == [len(ROWS)]
    assert hash_hits(rows, [""], words_of([None]), words_of([None]), seen.append) == [[]]


def test_equal_bytes_are_proof_without_the_row_s_picture() -> None:
    row = {"representative": 2, "group_size": 3, "URL": "u", "TEXT": "t", "pdq": words_of(["0f" * 32])[0].tobytes()}
    hashes = np.concatenate([words_of(["0f" * 32]), words_of(["f0" * 32])])
    candidate = Match(picture="a", verdict=Verdict.CANDIDATE, id=5)
    match = with_evidence(candidate, {5: row}, [Hit(0, 5, True)], hashes)
    assert (match.verdict, match.same_bytes, match.pdq, match.group_size) == (Verdict.VERBATIM, True, 0, 3)
    assert with_evidence(candidate, {5: row}, [Hit(0, 5, False)], hashes).verdict is Verdict.CANDIDATE


@pytest.mark.parametrize("name", ["prompts.csv", "prompts.parquet"])
def test_prompts_are_read_from_a_table_or_from_files_beside(tmp_path: Path, name: str) -> None:
    (tmp_path / "0.txt").write_text(" a cat\n")
    assert of_pictures(tmp_path, ["0.png", "0.txt", "1.png"], None) == {"0.png": "a cat"}
    table = pa.table({"picture": ["0.png", "1.png"], "prompt": ["a cat", None]})
    if name.endswith("csv"):
        pyarrow.csv.write_csv(table, tmp_path / name)
    else:
        pq.write_table(table, tmp_path / name)
    assert of_pictures(tmp_path, [], tmp_path / name) == {"0.png": "a cat"}
    with pytest.raises(PromptError, match="with the columns picture and prompt"):
        of_pictures(tmp_path, [], tmp_path / "missing.csv")


def test_unrelated_pictures_are_no_copies(release: Release) -> None:
    pictures = [(f"{one}.png", png(smooth(one))) for one in range(9_000, 9_020)]
    null = match_pictures(release, OPTIONS, Averages(), pictures, kept)
    share, _, upper = null.copy_rate
    assert share == 0
    assert upper == pytest.approx(0.161, abs=2e-3)


def test_page_shows_the_copies_with_their_rows(matches: Matches) -> None:
    page = render("Matches", matches, matches)
    assert page.index("mirrored.png") < page.index("<h2>Pictures</h2>") < page.index("unrelated.png")
    assert page.count("data:image/jpeg") == 4 * len(matches.shown)
    assert "unrelated pictures" in page


def test_command_writes_a_table_and_a_page(release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataset.models.clip.load_model", lambda *_: Averages())
    monkeypatch.setattr("dataset.select.pictures.read_kept", lambda _, ids: kept(ids))
    for folder, images in (("made", ROWS[:2]), ("null", [smooth(8_000), smooth(8_001)])):
        (tmp_path / folder).mkdir()
        for at, image in enumerate(images):
            (tmp_path / folder / f"{at}.png").write_bytes(png(image))
    (tmp_path / "made" / "0.txt").write_text("Caption 0  of 0")
    words = ["match", "laion", str(tmp_path / "made"), "--null", str(tmp_path / "null"), "--out", str(tmp_path / "out")]
    words += ["--pretrained", "weights", "--store", release.store.uri, "--json"]
    run = CliRunner().invoke(app, words, catch_exceptions=False)
    told = json.loads(run.stdout)
    assert told["verdicts"]["verbatim"] == 2
    assert told["null_verdicts"]["none"] == 2
    rows = Store.open(str(tmp_path / "out")).read_table("matches.parquet").to_pylist()
    assert [(row["picture"], row["verdict"], row["id"]) for row in rows] == [
        ("0.png", "verbatim", 0),
        ("1.png", "verbatim", 1),
    ]
    assert [(row["pdq"], row["own_prompt"]) for row in rows] == [(0, True), (0, None)]
    assert "<h2>0.png</h2>" in (tmp_path / "out" / "matches.html").read_text()


def test_folder_without_pictures_is_refused(release: Release) -> None:
    with pytest.raises(MatchError, match="None of the pictures"):
        match_pictures(release, OPTIONS, Averages(), [("a", b"x")], kept)


def test_alignment_finds_shifts_up_to_its_limit() -> None:
    original = square(smooth(3, cells=16))
    moved = np.roll(original, (5, -4), axis=(0, 1))
    found = align(moved, original)
    assert found.rms() < 0.01
    assert found.valid.mean() == pytest.approx((1 - 5 / SIDE) * (1 - 4 / SIDE))
    assert align(np.roll(original, 40, axis=0), original).rms() > 0.1


def test_fewer_than_three_pictures_have_no_template() -> None:
    same = square(smooth(4))
    assert not template_mask([same, same]).any()
    assert template_mask([same, same, same]).all()
