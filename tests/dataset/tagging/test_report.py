"""`dataset tags report` on a tagged release, compared with its table, and with labels of all of its rows."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from dataset.formats.label_files import LabelFile, LabelRecord, write_labels
from dataset.formats.releases import Release
from dataset.formats.side_tables import read_side_tables
from dataset.main import app
from dataset.tagging.errors import TaggingError
from dataset.tagging.figures import THRESHOLDS, gather, read_test_labels
from dataset.tagging.given_heads import find_heads
from dataset.tagging.report_page import render
from dataset.tagging.run import tag
from tests.dataset.tagging.made import made_release


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    made = made_release(tmp_path_factory.mktemp("reported") / "store")
    tag(made, find_heads(made.store, ["unsafe"]))
    return made


@pytest.fixture(scope="module")
def scores(release: Release) -> dict[int, float]:
    files = read_side_tables(release)["tags"].files
    rows = [row for file in files for row in release.store.read_table(release.path(file.path)).to_pylist()]
    return {row["id"]: row["punsafe"] for row in rows}


def has_property(row: int) -> bool:
    return row % 3 == 0


def put_labels(path: Path, ids: list[int], *, split: str = "test", weight: float | None = 2.0) -> Path:
    """Write labels of rows, of which every third has the property."""
    rows = [
        {"id": one, "hash": one, "sha256": None, "split": split, "label": "marked" if has_property(one) else "clear",
         "annotator": "ada", "time": datetime(2026, 11, 27, tzinfo=UTC), "draw": "uniform", "prompt": None,
         "rank": None, "similarity": None, "weight": weight, "guideline": "1"}
        for one in ids
    ]  # fmt: skip
    record = LabelRecord(format=1, task="t", release="laion", version="1.0.0", classes=("marked", "clear"),
                         guideline_version="1", guideline="g", seed=0)  # fmt: skip
    write_labels(path, LabelFile(record, pa.Table.from_pylist(rows)))
    return path


def run(release: Release, *arguments: object) -> Any:
    return CliRunner().invoke(app, ["tags", "report", "laion", "--store", release.store.uri, *map(str, arguments)])


def test_a_report_that_cannot_be_made_says_why_in_a_sentence(release: Release, tmp_path: Path) -> None:
    untested = put_labels(tmp_path / "train.parquet", [1, 2], split="train")
    with pytest.raises(TaggingError, match="has no row of the split test with a weight"):
        read_test_labels(untested, "marked")
    elsewhere = put_labels(tmp_path / "far.parquet", [9_000, 9_001])
    with pytest.raises(TaggingError, match="No labelled row is a row of laion with punsafe: give this"):
        gather(release, ["punsafe"], labels=read_test_labels(elsewhere, "marked"))
    with pytest.raises(TaggingError, match="has punsafe and pwatermark: name the one that the labels"):
        gather(release, labels=read_test_labels(elsewhere, "marked"))
    for arguments, sentence in ((("--tag", "aesthetic"), "no probability"), (("--labels", elsewhere), "--positive")):
        assert sentence in str(run(release, *arguments).exception)


def test_counts_are_those_of_the_table(release: Release, scores: dict[int, float]) -> None:
    unsafe, watermark = gather(release, threads=2)
    assert (unsafe.table, watermark.table) == ("tags", "")
    assert sum(unsafe.rows.values()) == len(scores) == 200
    assert set(unsafe.histograms) == {"en", "multi"}
    assert sum(sum(bins) for bins in unsafe.histograms.values()) == 200
    for one in unsafe.thresholds:
        above = [score for score in scores.values() if score >= np.float32(one.threshold)]
        assert one.rows == len(above)
        assert one.precision.share == pytest.approx(np.mean(above), abs=1e-6)
        assert one.recall.share == pytest.approx(sum(above) / sum(scores.values()), abs=1e-6)
    assert sum(bucket.rows for bucket in unsafe.buckets) == 200
    assert all(row.score == scores[row.id] for bucket in unsafe.buckets for row in bucket.drawn)


def test_precision_and_recall_are_measured_on_labels(
    release: Release, scores: dict[int, float], tmp_path: Path
) -> None:
    labels = put_labels(tmp_path / "labels.parquet", [*scores])
    said = run(release, "--tag", "punsafe", "--labels", labels, "--positive", "marked", "--json",
               "--out", tmp_path / "tags.html")  # fmt: skip
    assert said.exit_code == 0, said.output
    (found,) = json.loads(said.stdout)["tags"]
    assert found["labels"] == 200
    marked = {one for one in scores if has_property(one)}
    assert found["prevalence"]["share"] == pytest.approx(len(marked) / 200)
    for one in found["thresholds"]:
        above = {row for row, score in scores.items() if score >= np.float32(one["threshold"])}
        assert one["precision"]["share"] == pytest.approx(len(above & marked) / len(above))
        assert one["recall"]["share"] == pytest.approx(len(above & marked) / len(marked))
        assert one["precision"]["low"] < one["precision"]["share"] < one["precision"]["high"]
    page = (tmp_path / "tags.html").read_text(encoding="utf-8")
    assert "from 200 labelled rows" in page
    assert page.count("data:image/jpeg") > 20
    assert page.count('class="blurred"') == page.count("data:image/jpeg")


def test_the_page_has_every_section_and_escapes_what_it_shows(release: Release) -> None:
    tags = gather(release)
    page = render("<b>laion", "1.0.0", tags, {})
    assert "<b>laion" not in page
    for heading in ("Head of punsafe", "punsafe in en", "punsafe by threshold", "pwatermark in multi"):
        assert f"<h2>{heading}</h2>" in page
    assert "No labels were given" in page
    assert "no picture is kept" in page
    assert len(tags[0].thresholds) == len(THRESHOLDS)
