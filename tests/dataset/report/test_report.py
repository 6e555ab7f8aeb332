"""The report shows the outputs that the manifest lists, and untrusted text stays text."""

import io
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from dataset.formats.parts import KeptSample, ScoredPair, Verdict, write_part
from dataset.formats.shard_writer import LinkRow, ShardWriter
from dataset.formats.shards import sample_key
from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.report.report import MeasuredRow, ReportError, StageRow, write_report
from dataset.report.thumbnails import GALLERY_SAMPLES
from dataset.store.store import Store, StoreError
from tests.manifests import put_manifest

MODELS = '{"en": {"model": "tiny", "threshold": 0.28}, "other": {"model": "tiny-multi", "threshold": 0.26}}'
HOSTILE = "<script>alert(1)</script> \"quoted\" <img src=https://example.org/x onerror=alert(1)> & 'more'"


def picture(data: bytes | None = None) -> Picture:
    if data is None:
        file = io.BytesIO()
        Image.new("RGB", (30, 20), "red").save(file, "JPEG")
        data = file.getvalue()
    return Picture(
        data=data, extension="jpg", width=30, height=20, original_width=60, original_height=40, sha256="0", md5="1"
    )


def row(position: int, outcome: Outcome, caption: str = "a picture", **more: object) -> LinkRow:
    fields = {"pack": 1, "pack_row": position, "attempt": 1, "final": True, "language": "en", **more}
    if outcome is Outcome.SUCCESS:
        fields.setdefault("picture", picture())
    return LinkRow(position=position, url=f"http://a/{position}", caption=caption, outcome=outcome, **fields)  # type: ignore[arg-type]


def write_shard(store: Store, job: int, rows: Sequence[LinkRow], subset: str = "en") -> dict[str, object]:
    with ShardWriter(store, f"shards/{job}", job_id=job, subset=subset) as shard:
        for each in rows:
            shard.add(each)
        shard.publish()
    return {"kind": "shard", "path": f"shards/{job}", "job": job, "subset": subset}


def write_scores(store: Store, job: int, similarities: Sequence[float | None], subset: str = "en") -> dict[str, object]:
    about = KeptSample(60, 40, "en", "en", 1, 1)
    pairs = []
    for position, similarity in enumerate(similarities):
        verdict = (
            Verdict.UNDECODABLE
            if similarity is None
            else Verdict.KEPT
            if similarity >= 0.28
            else Verdict.BELOW_THRESHOLD
        )
        kept = about if verdict is Verdict.KEPT else None
        pairs.append(
            ScoredPair(sample_key(job, position), f"http://a/{position}", "a picture", verdict, similarity, kept)
        )
    write_part(store, f"parts/{job}", pairs, shard=f"shards/{job}", metadata={"shoal.models": MODELS})
    return {"kind": "part", "path": f"parts/{job}", "job": 1000 + job, "subset": subset}


def report(store: Store, outputs: Sequence[dict[str, object]], folder: Path, stages: Sequence[StageRow] = ()) -> str:
    out = folder / "report.html"
    put_manifest(store, [{"run": "test"} | output for output in outputs])
    write_report(store, out, "A run", stages)
    return out.read_text(encoding="utf-8")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


class Tags(HTMLParser):
    """Collects the tags of a page, with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_kept_and_dropped_samples_are_shown_with_their_similarity(store: Store, tmp_path: Path) -> None:
    shard = write_shard(store, 1, [row(0, Outcome.SUCCESS, "a red one"), row(1, Outcome.SUCCESS, "not a red one")])
    page = report(store, [shard, write_scores(store, 1, [0.412, 0.107])], tmp_path)
    kept, dropped = page.split("<h2>Kept</h2>")[1].split("<h2>Dropped</h2>")
    assert "0.412" in kept
    assert "a red one" in kept
    assert "0.107" in dropped
    assert "not a red one" in dropped


def test_a_hostile_caption_stays_text(store: Store, tmp_path: Path) -> None:
    shard = write_shard(store, 1, [row(0, Outcome.SUCCESS, HOSTILE)])
    page = report(store, [shard, write_scores(store, 1, [0.5])], tmp_path)
    tags = Tags(page).seen
    assert "script" not in {tag for tag, _ in tags}
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)
    assert all(
        (attributes["src"] or "").startswith("data:image/jpeg;base64,") for tag, attributes in tags if tag == "img"
    )


def test_the_page_needs_nothing_from_elsewhere(store: Store, tmp_path: Path) -> None:
    shard = write_shard(store, 1, [row(0, Outcome.SUCCESS)])
    page = report(store, [shard, write_scores(store, 1, [0.5])], tmp_path)
    assert not {tag for tag, _ in Tags(page).seen} & {"link", "script", "iframe", "object"}
    assert "url(" not in page
    assert "default-src &#x27;none&#x27;" in page


def test_outcomes_count_final_rows_and_other_attempts_separately(store: Store, tmp_path: Path) -> None:
    rows = [row(0, Outcome.SUCCESS), row(1, Outcome.NOT_FOUND), row(2, Outcome.TIMEOUT, final=False)]
    page = report(store, [write_shard(store, 1, rows)], tmp_path)
    assert "1 of 2 links gave a picture" in page
    assert "that were repeated later are not counted: timeout 1." in page


def test_each_model_has_a_histogram_with_its_threshold(store: Store, tmp_path: Path) -> None:
    outputs = [
        write_shard(store, 1, [row(0, Outcome.SUCCESS)]),
        write_shard(store, 2, [row(0, Outcome.SUCCESS)], "multi"),
        write_scores(store, 1, [0.5]),
        write_scores(store, 2, [0.4], "multi"),
    ]
    page = report(store, outputs, tmp_path)
    assert re.findall(r"<b>(tiny[^<]*)</b> 1 kept, 0 dropped at ([0-9.]+)", page) == [
        ("tiny (English)", "0.28"),
        ("tiny-multi (other languages)", "0.26"),
    ]
    assert page.count("<svg ") == 2


def test_what_cannot_be_decoded_is_counted_and_does_not_break_the_page(store: Store, tmp_path: Path) -> None:
    broken = row(0, Outcome.SUCCESS, picture=picture(b"\xff\xd8\xff broken"))
    shard = write_shard(store, 1, [broken, row(1, Outcome.SUCCESS)])
    page = report(store, [shard, write_scores(store, 1, [0.5, None])], tmp_path)
    assert "Not shown: 1 pictures that could not be decoded." in page
    assert page.count("<img ") == 0


def test_a_similarity_at_either_end_is_in_the_histogram(store: Store, tmp_path: Path) -> None:
    shard = write_shard(store, 1, [row(0, Outcome.SUCCESS), row(1, Outcome.SUCCESS)])
    page = report(store, [shard, write_scores(store, 1, [1.0, -1.0])], tmp_path)
    assert "1 kept, 1 dropped at 0.28" in page


def test_a_run_without_parts_still_has_its_outcomes(store: Store, tmp_path: Path) -> None:
    page = report(store, [write_shard(store, 1, [row(0, Outcome.GONE)])], tmp_path)
    assert "<h2>Similarity</h2>" not in page
    assert "gone" in page


def test_no_more_than_a_gallery_of_samples_is_shown_and_always_the_same(store: Store, tmp_path: Path) -> None:
    count = 3 * GALLERY_SAMPLES
    shard = write_shard(store, 1, [row(n, Outcome.SUCCESS) for n in range(count)])
    outputs = [shard, write_scores(store, 1, [0.5] * count)]
    page = report(store, outputs, tmp_path)
    assert page.count("<img ") == GALLERY_SAMPLES
    assert report(store, outputs, tmp_path) == page


def test_a_file_that_the_manifest_does_not_list_does_not_exist(store: Store, tmp_path: Path) -> None:
    listed = [write_shard(store, 1, [row(0, Outcome.SUCCESS)]), write_scores(store, 1, [0.5])]
    write_shard(store, 2, [row(0, Outcome.FORBIDDEN)])
    write_scores(store, 2, [0.9])
    page = report(store, listed, tmp_path)
    assert "forbidden" not in page
    assert "0.900" not in page


def test_stages_are_listed_with_their_rate(store: Store, tmp_path: Path) -> None:
    shard = write_shard(store, 1, [row(0, Outcome.SUCCESS)])
    page = report(
        store, [shard], tmp_path, [StageRow("download", 3, 1200, 1100, 10.0), StageRow("filter", 0, 0, 0, 0.0)]
    )
    assert "<td>120</td>" in page
    assert "<td>–</td>" in page


def test_measurements_are_shown_in_a_table(store: Store, tmp_path: Path) -> None:
    shard = write_shard(store, 1, [row(0, Outcome.SUCCESS)])
    measured = [MeasuredRow("punsafe: <recall>", "97.5 %", "412 pictures")]
    put_manifest(store, [{"run": "test"} | shard])
    write_report(store, tmp_path / "page.html", "A run", measured=measured)
    page = (tmp_path / "page.html").read_text()
    assert '<th scope="row">punsafe: &lt;recall&gt;</th><td>97.5 %</td><td>412 pictures</td>' in page
    assert "<h2>Measured</h2>" not in report(store, [shard], tmp_path)


def test_samples_of_which_no_row_is_left_are_counted(store: Store, tmp_path: Path) -> None:
    shard = write_shard(store, 1, [row(0, Outcome.SUCCESS), row(1, Outcome.SUCCESS)])
    part = write_scores(store, 1, [0.5])
    scores = store.read_table(f"{part['path']}.scores.parquet")
    store.write_table(f"{part['path']}.scores.parquet", scores, {"shoal.verdicts": '{"kept": 1, "unsafe_minor": 1}'})
    assert "<b>2</b><span>pairs scored" in report(store, [shard, part], tmp_path)


def test_a_manifest_without_shards_is_one_sentence(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no shard"):
        report(store, [{"kind": "pack", "path": "packs/1", "job": 1, "subset": None}], tmp_path)


def test_an_output_that_is_gone_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"shards/9\.parquet"):
        report(store, [{"kind": "shard", "path": "shards/9", "job": 9, "subset": "en"}], tmp_path)


def test_a_report_that_cannot_be_written_is_one_sentence(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="Cannot write"):
        report(store, [write_shard(store, 1, [row(0, Outcome.SUCCESS)])], tmp_path / "missing")


def test_the_report_does_without_torch() -> None:
    code = "import sys, dataset.report.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
