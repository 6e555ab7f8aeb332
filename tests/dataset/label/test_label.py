"""`dataset dedup label`: the draw, the file of answers, precision against known values, and the page."""

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
import trio
from typer.testing import CliRunner

from dataset.dedup.options import Options
from dataset.dedup.quality import DEFAULT_ORDER
from dataset.dedup.run import search
from dataset.formats.releases import FileKind, Release
from dataset.formats.side_tables import read_side_tables
from dataset.label import control
from dataset.label.answers import CHOICES, Answers, Refetched
from dataset.label.control import compare_captions
from dataset.label.evidence import Way, from_answers, without_answers
from dataset.label.journal import LabelError
from dataset.label.pairs import EDGES, Pair, draw_pairs
from dataset.label.precision import measure, pick, precision_table, tally
from dataset.label.refetch import refetch
from dataset.label.report_sections import precision_sections
from dataset.label.server import make_app
from dataset.main import app
from dataset.side_tables.rows import ReleaseRows
from dataset.store.store import Store
from dataset.tags.wilson import wilson
from tests.dataset.label.served import ask, jpeg, served
from tests.dataset.search.browser import Browser, browsing
from tests.planted import MODEL, planted, put_release
from tests.workers.fetching.odd_web import answer, response
from tests.workers.fetching.odd_web import run as run_trio
from tests.workers.test_fetcher import fetcher


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    store = Store.open(str(tmp_path_factory.mktemp("label")))
    made = put_release(store, "laion", [planted(900, dimensions=48)], rows_per_file=200)
    search(made, Options(model=MODEL, at=0.94, cells=16, super_cells=2))
    return made


def test_draw_has_one_pair_a_group_and_is_that_of_its_seed(release: Release) -> None:
    rows = ReleaseRows.open(release)
    drawn = draw_pairs(rows, 3, 7)
    assert drawn == draw_pairs(rows, 3, 7, threads=2)
    assert drawn.pairs != draw_pairs(rows, 3, 8).pairs
    assert len({pair.representative for pair in drawn.pairs}) == len(drawn.pairs) > 3
    assert max(Counter(pair.stratum for pair in drawn.pairs).values()) == 3
    files = read_side_tables(release)["duplicates"].files
    known = {row["id"]: row for file in files for row in release.store.read_table(release.path(file.path)).to_pylist()}
    assert sum(drawn.counts.values()) == sum(row["kind"] == "near" for row in known.values())
    for pair in drawn.pairs:
        row = known[pair.member]
        assert (row["kind"], row["representative"]) == ("near", pair.representative)
        place = sum(row["cosine"] >= edge - 1e-5 for edge in (0.90, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98))
        assert pair.stratum == (place, sum(row["group_size"] >= size for size in (3, 10, 100)))


KILLED = """
import os, signal, sys
from pathlib import Path
from dataset.label.answers import Answers
answers = Answers(Path(sys.argv[1]), {"seed": 1})
for member in range(5):
    answers.add(member, "same")
answers.undo()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_answers_survive_kill_and_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == -9
    with path.open("ab") as file:
        file.write(b'{"member": 9, "ans')
    answers = Answers(path, {"seed": 1})
    assert list(answers.given) == [0, 1, 2, 3]
    with pytest.raises(LabelError, match="Another process"):
        Answers(path, {"seed": 1})
    answers.add(9, "different")
    answers.close()
    with pytest.raises(LabelError, match="another release"):
        Answers(path, {"seed": 2})
    assert [json.loads(line) for line in path.read_text().splitlines()][-1] == {"member": 9, "answer": "different"}


def test_precision_is_that_of_known_answers() -> None:
    pairs = [Pair(one, one, 1_000 + one, (3 if one < 100 else 7, 0)) for one in range(300)]
    given = dict.fromkeys(range(300), "edited") | dict.fromkeys(range(20), "template") | {299: "cannot tell"}
    tallies = tally({pair.member: pair.stratum for pair in pairs}, given)
    found = measure({(3, 0): 100, (7, 0): 200}, tallies, 0.94, 0.98)
    table = found.table
    assert [one.at for one in table] == [0.94, 0.95, 0.96, 0.97, 0.98]
    assert table[0].share == pytest.approx((0.8 * 100 + 200) / 300)
    assert (table[0].answers, table[0].wrong) == (299, 20)
    assert (table[-1].low, table[-1].high) == wilson(199, 199)
    assert pick(table, 0.98) == 0.95
    assert pick(table, 0.999) is None
    assert found.threshold == 0.95
    assert [(one.cosine, one.size, one.answers, one.wrong) for one in found.strata] == [
        (0.94, 2, 100, 20),
        (0.98, 2, 199, 0),
    ]
    unseen = precision_table({(7, 0): 100, (7, 3): 100}, tallies, 0.94)[-1]
    assert unseen.low == pytest.approx(wilson(199, 199)[0] / 2)
    assert unseen.high == 1


@contextmanager
def serving(path: Path) -> Iterator[tuple[str, Answers]]:
    answers = Answers(path, {"seed": 1})
    pictures = {1: jpeg("red"), 2: jpeg("red"), 3: jpeg("black"), 4: jpeg("white")}
    with closing(answers), served(make_app([(1, 2), (3, 4)], pictures, answers)) as url:
        yield url, answers


def test_page_takes_answers_skips_and_takes_back(tmp_path: Path) -> None:
    with serving(tmp_path / "answers") as (url, answers):
        state = ask(f"{url}/api/state")
        assert state == {"choices": [*CHOICES], "done": 0, "all": 2, "shown": {"member": 1, "representative": 2}}
        act = f"{url}/api/answer"
        assert ask(act, {"action": "skip", "member": 1})["shown"]["member"] == 3
        assert ask(act, {"action": "same", "member": 1}) == 409
        assert ask(act, {"action": "maybe", "member": 3}) == 400
        assert ask(act, {"action": "same", "member": 3}, **{"Content-Type": "text/plain"}) == 415
        assert ask(act, {"action": "same", "member": 3}, Host="evil.example") == 400
        assert ask(act, {"action": "different", "member": 3})["done"] == 1
        assert answers.given == {3: "different"}
        assert ask(act, {"action": "undo"})["shown"]["member"] == 3
        assert answers.given == {}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as found:
        yield found


def test_keys_answer_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path / "answers") as (url, answers):
        browser.open(url)
        browser.wait("document.querySelector('#said').textContent === '0 of 2' && document.images[1].complete")
        browser.wait("document.querySelectorAll('#choices button').length === 7")
        browser.wait("document.querySelector('#difference').getContext('2d').getImageData(9, 9, 1, 1).data[3]")
        browser.press("1")
        browser.wait("document.querySelector('#said').textContent === '1 of 2'")
        browser.wait("document.querySelector('#difference').getContext('2d').getImageData(9, 9, 1, 1).data[0] > 200")
        browser.press("f")
        browser.wait("document.querySelector('#left').src.endsWith('/4')")
        browser.press("4")
        browser.wait("document.querySelector('#said').textContent.includes('all pairs')")
        assert answers.given == {1: "same", 3: "different"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_keeps_to_the_accessibility_guidelines(browser: Browser, tmp_path: Path, scheme: str) -> None:
    with serving(tmp_path / "answers") as (url, _):
        browser.prefer(prefers_color_scheme=scheme)
        browser.open(url)
        browser.wait("document.querySelectorAll('#choices button').length === 7")
        assert browser.violations() == []


@pytest.fixture(scope="module")
def answers(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in which half of the drawn pairs are the same picture, and one is another."""
    path = tmp_path_factory.mktemp("answers") / "answers"
    words = ["dedup", "label", "laion", "--store", release.store.uri, "--answers", str(path), "--table"]
    run = CliRunner().invoke(app, words, catch_exceptions=False)
    assert run.exit_code == 0
    assert "answer more pairs" in run.stdout
    drawn = json.loads(path.read_text())["drawn"]
    lines = [{"member": member, "answer": "same"} for member, *_ in drawn[::2]]
    lines += [{"member": drawn[1][0], "answer": "different"}, {"member": 1, "answer": None}]
    with path.open("a") as file:
        file.writelines(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    return path


def test_command_refuses_a_release_without_pictures(release: Release, tmp_path: Path) -> None:
    words = ["dedup", "label", "laion", "--store", release.store.uri, "--answers", str(tmp_path / "answers")]
    with pytest.raises(LabelError, match="No pair has both pictures: give --fetcher"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def changed(path: Path, folder: Path, **fields: object) -> Path:
    first, *others = path.read_text("utf-8").splitlines()
    made = folder / "changed"
    made.write_text("\n".join([json.dumps(json.loads(first) | fields, allow_nan=False), *others, ""]))
    return made


def test_report_says_where_its_precision_comes_from(release: Release, answers: Path, tmp_path: Path) -> None:
    own = from_answers(release, MODEL, 0.94, answers, 0.3)
    assert (own.way, own.measured and own.measured.table[0].wrong) == (Way.LABELLED, 1)
    assert own.measured is not None
    assert own.measured.threshold is not None
    borrowed = from_answers(release, MODEL, 0.94, changed(answers, tmp_path, version="0.9.0"), 0.3)
    assert (borrowed.way, borrowed.measured) == (Way.BORROWED, own.measured)
    with pytest.raises(LabelError, match="another model"):
        from_answers(release, MODEL, 0.94, changed(answers, tmp_path, model="b" * 64), 0.3)
    page = "".join(precision_sections(borrowed, "laion"))
    assert "Borrowed: from answers on laion 0.9.0" in page
    assert f"--at {own.measured.threshold:g} has precision 0.3" in page


def test_report_without_answers_compares_captions(release: Release, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ReleaseRows.open(release)
    drawn = draw_pairs(rows, 100, 0)
    found = list(compare_captions(rows, drawn, DEFAULT_ORDER))
    assert [one.pairs for one in found] == [
        sum(count for stratum, count in drawn.counts.items() if EDGES[stratum[0]] == one.at) for one in found
    ]
    assert all(one.unlike == 0 and one.shuffled == 0 for one in found)  # all captions have the word "caption"
    assert all(one.unrelated_at_most == 1 for one in found)  # of rows without a difference nothing is known
    monkeypatch.setattr(control, "_WORD", re.compile(r"\d{2,}"))
    found = list(compare_captions(rows, drawn, DEFAULT_ORDER))
    assert sum(one.unlike for one in found) > 0.8 * sum(one.sampled for one in found)
    assert all(one.shuffled > 0.8 for one in found)
    assert "Run dataset dedup label laion" in "".join(
        precision_sections(without_answers(release, DEFAULT_ORDER), "laion")
    )


@pytest.mark.parametrize("said", ["", "{}\n", '{"pairs": [], "drawn": [[1]]}\n'])
def test_damaged_answers_are_refused(release: Release, tmp_path: Path, said: str) -> None:
    (tmp_path / "answers").write_text(said)
    with pytest.raises(LabelError, match="is not a file of answers"):
        from_answers(release, MODEL, 0.94, tmp_path / "answers", 0.98)


def test_only_unchanged_pictures_are_fetched_again(release: Release, tmp_path: Path) -> None:
    data = next(iter(release.files(FileKind.DATA)))
    table = release.store.read_table(release.path(data.path))
    picture = jpeg("red")

    async def test() -> tuple[dict[int, bytes], Refetched]:
        handlers = {"/a.jpg": answer(response(picture)), "*": answer(b"HTTP/1.1 404 Not Found\r\n\r\n")}
        async with fetcher(tmp_path, handlers) as running:
            urls, sha256 = table["URL"].to_pylist(), table["sha256"].to_pylist()
            urls[:3] = [running.web.url(path) for path in ("/a.jpg", "/a.jpg", "/b.jpg")]
            sha256[0] = hashlib.sha256(picture).hexdigest()
            columns = table.to_pydict() | {"URL": urls, "sha256": sha256}
            release.store.write_table(release.path(data.path), pa.table(columns, schema=table.schema))
            rows = ReleaseRows.open(release)
            return await trio.to_thread.run_sync(lambda: refetch(rows, [0, 1, 2], DEFAULT_ORDER, running.path, 16))

    jpegs, counted = run_trio(test)
    release.store.write_table(release.path(data.path), table)
    assert list(jpegs) == [0]
    assert counted == Refetched(asked=3, answered=2, same=1)
