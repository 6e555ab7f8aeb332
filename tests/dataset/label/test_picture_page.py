"""The page for single pictures: who is shown what, undo, adjudication, breaks, reports; and the labels that result."""

import asyncio
import errno
import hashlib
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dataset.formats.label_files import read_label_file, write_labels
from dataset.label.drawn_file import SCHEMA, Drawn, DrawRecord
from dataset.label.illegal import REASON, file_missing, report_illegal
from dataset.label.journal import LabelError
from dataset.label.labels import NAME, Answer, Labels
from dataset.label.picture_server import make_picture_app
from dataset.label.pictures import Pictures
from dataset.label.random_draws import Stratum
from dataset.label.results import export, items_of, summarize
from dataset.label.tasks import Task, read_task
from dataset.search.errors import SearchError
from dataset.search.fetcher_client import FetcherClient
from dataset.store.store import Store
from dataset.takedown.requests import list_requests, pending_entries
from tests.dataset.label.served import ask, jpeg, served
from tests.dataset.search.browser import Browser, browsing

TASK = """
name = "watermark"
guideline_version = "2"
guideline = "A mark of ownership that lies over the picture.\\nNot: a logo on a product."
annotators = 2

[[classes]]
name = "watermark"
meaning = "a mark lies over the picture"
examples = [90]

[[classes]]
name = "clean"
meaning = "no mark"

[[classes]]
name = "cannot tell"
unclear = true

[draws.uniform]
count = 6
"""
START = datetime(2026, 1, 2, 9, tzinfo=UTC)


def task_of(folder: Path, **changes: object) -> Task:
    text = TASK.replace("annotators = 2", "\n".join(f"{name} = {value}" for name, value in changes.items()) or "")
    (folder / "task.toml").write_text(text if changes else TASK, encoding="utf-8")
    return read_task(folder / "task.toml")


def drawn_of(task: Task, count: int = 6) -> Drawn:
    """Return drawn pictures with the ids from 1 on; 5 and 6 are one group."""
    rows = [
        {"id": one, "hash": -one, "sha256": f"{one:064x}", "group": min(one, 5), "split": "test", "draw": "uniform",
         "similarity": 0.3, "weight": 10.0, "stratum": 0}
        for one in range(1, count + 1)
    ]  # fmt: skip
    record = DrawRecord(
        format=1, task=task.name, digest=task.digest, release="laion", version="1.0.0", groups=True,
        strata=(Stratum(None, None, False, 60, 0.1),), left_out={},
    )  # fmt: skip
    return Drawn(record, pa.Table.from_pylist(rows, schema=SCHEMA))


@dataclass
class Site:
    """A served page, its clock, and the working folder."""

    url: str
    labels: Labels
    store: Store
    now: datetime = START
    adjudicate: dict[str, bool] = field(default_factory=dict)

    def state(self, annotator: str, *, adjudicate: bool = False) -> Any:
        return ask(f"{self.url}/api/state?annotator={annotator}&adjudicate={str(adjudicate).lower()}")

    def act(self, annotator: str, action: str, item: int | None = None, **more: object) -> Any:
        return ask(f"{self.url}/api/answer", {"annotator": annotator, "action": action, "item": item, **more})

    def label(self, annotator: str, label: str, **more: object) -> int:
        """Label the picture that an annotator sees, and return it."""
        item: int = self.state(annotator, adjudicate=bool(more.get("adjudicate")))["shown"]["item"]
        assert isinstance(self.act(annotator, "label", item, label=label, **more), dict)
        return item


@contextmanager
def site(folder: Path, task: Task, count: int = 6, lost: int | None = None) -> Iterator[Site]:
    drawn = drawn_of(task, count)
    items = items_of(drawn, task)
    store = Store.open(str(folder / "store"))
    labels = Labels(folder, {"task": task.digest}, [one.name for one in task.classes])
    colours = ("red", "green", "blue", "black", "white", "gray")
    pictures = Pictures({one: jpeg(colours[one % 6]) for one in (*range(1, count + 1), 90) if one != lost})
    app = make_picture_app(
        task, items, labels, pictures, lambda item, who: report_illegal(store, labels, item, who), lambda: made.now
    )
    with closing(labels), served(app) as url:
        made = Site(url, labels, store)
        yield made


def test_two_annotators_label_and_a_third_decides(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    with site(tmp_path, task, 4) as page:
        described = ask(f"{page.url}/api/task")
        assert [one["name"] for one in described["classes"]] == ["watermark", "clean", "cannot tell"]
        assert described["classes"][0]["examples"] == [90]
        first = page.state("ada")
        assert (first["shown"], first["done"], first["left"]) == ({"item": 1, "answers": []}, 0, 4)
        assert not {"prompt", "similarity", "weight", "draw", "split", "score"} & {*json.dumps(first)}
        for label in ("watermark", "clean", "clean", "cannot tell"):
            page.label("ada", label)
        assert page.state("ada")["shown"] is None
        for label in ("watermark", "watermark", "clean", "cannot tell"):
            page.label("bob", label)
        decided = page.state("eve", adjudicate=True)
        assert (decided["shown"], decided["left"]) == ({"item": 2, "answers": ["clean", "watermark"]}, 1)
        assert page.state("eve")["shown"] is None  # every picture has its two answers
        page.label("eve", "clean", adjudicate=True)
        said = summarize(drawn_of(task, 4), task, page.labels)
        assert (said["labelled"], said["unclear"], said["disputed"]) == (4, 1, 0)
        assert said["annotators"] == {"ada": 4, "bob": 4}
        assert said["agreement"]["pairs"] == [
            {"annotators": ["ada", "bob"], "pictures": 4, "kappa": pytest.approx(7 / 11)}
        ]
        assert said["agreement"]["alpha"] == pytest.approx(0.6666666)
        assert said["prevalence"]["watermark"]["share"] == pytest.approx(1 / 3)
        assert said["splits"]["test"]["labels"] == {"watermark": 1, "clean": 2, "cannot tell": 1}
        write_labels(tmp_path / "labels.parquet", export(drawn_of(task, 4), task, page.labels))
    rows = read_label_file(tmp_path / "labels.parquet").rows.to_pylist()
    assert [(row["id"], row["label"], row["annotator"]) for row in rows] == [
        (1, "watermark", "ada,bob"), (2, "clean", "eve"), (3, "clean", "ada,bob")
    ]  # fmt: skip
    assert {(row["time"], row["guideline"], row["weight"]) for row in rows} == {(START, "2", 10.0)}


def test_undo_skip_and_what_is_refused(tmp_path: Path) -> None:
    with site(tmp_path, task_of(tmp_path), 3, lost=2) as page:
        assert page.act("ada", "skip", 1)["shown"]["item"] == 3  # the picture of 2 cannot be read
        assert page.act("ada", "label", 1, label="clean") == 409
        assert page.act("ada", "label", 3, label="dog") == 400
        assert page.act("ada", "delete", 3) == 400
        assert page.act("", "label", 3, label="clean") == 400
        assert page.act("ada lovelace", "label", 3, label="clean") == 400
        body = {"annotator": "ada", "action": "label", "item": 3, "label": "clean"}
        assert ask(f"{page.url}/api/answer", body, **{"Content-Type": "text/plain"}) == 415
        assert ask(f"{page.url}/api/answer", body, Host="evil.example") == 400
        assert ask(f"{page.url}/api/answer", [1]) == 400
        assert page.act("ada", "label", 3, label="clean")["shown"]["item"] == 1
        assert page.act("ada", "undo")["shown"]["item"] == 3
        assert page.act("bob", "undo")["shown"]["item"] == 1  # nothing of bob's
        assert page.act("ada", "label", 3, label="watermark")["done"] == 1
        assert page.labels.answers[3]["ada"].label == "watermark"
        assert ask(f"{page.url}/pictures/7") == 404


def test_a_picture_with_one_answer_is_shown_to_one_person_at_a_time(tmp_path: Path) -> None:
    with site(tmp_path, task_of(tmp_path, annotators=1), 3) as page:
        assert page.state("ada")["shown"]["item"] == 1
        assert page.state("bob")["shown"]["item"] == 2
        assert page.state("ada")["preload"] == [3]
        assert page.state("ada")["left"] == 2
        page.now += timedelta(minutes=11)
        assert page.state("eve")["shown"]["item"] == 1  # ada has gone
    half = task_of(tmp_path, annotators=2, overlap=0.5, seed=1)
    assert {one.wanted for one in items_of(drawn_of(half), half)} == {1, 2}


def test_a_break_is_suggested_after_work_without_a_pause(tmp_path: Path) -> None:
    with site(tmp_path, task_of(tmp_path, break_minutes=8)) as page:
        page.label("ada", "clean")
        for minutes in (4, 3):
            page.now += timedelta(minutes=minutes)
            page.label("ada", "clean")
            assert page.state("ada")["break"] is False
        page.now += timedelta(minutes=1)
        assert page.state("ada")["break"] is True
        assert page.state("bob")["break"] is False
        page.now += timedelta(minutes=6)
        assert page.state("ada")["break"] is False


def test_a_reported_picture_and_its_group_are_never_shown_again(tmp_path: Path) -> None:
    task = task_of(tmp_path, annotators=1)
    with site(tmp_path, task) as page:
        for _ in range(4):
            page.label("ada", "clean")
        assert page.act("ada", "report", 5)["shown"] is None  # 6 is of the same group
        for hidden in (5, 6):
            assert ask(f"{page.url}/pictures/{hidden}") == 404
        assert page.act("ada", "undo")["shown"]["item"] == 4  # the report stays
        assert page.state("bob")["shown"] is None
        (request,) = list_requests(page.store, pending=True)
        assert (request.reason, request.entries) == (REASON, {"pair": 1, "sha256": 1})
        assert {one.value for one in pending_entries(page.store, request.id)} == {"-5", f"{5:064x}"}
        assert page.labels.reported == {5: request.id}
    with site(tmp_path, task) as page:
        assert ask(f"{page.url}/pictures/5") == 404
        assert page.state("bob")["shown"]["item"] == 4
        assert summarize(drawn_of(task), task, page.labels)["hidden"] == 2


def test_a_report_whose_request_could_not_be_filed_hides_and_is_filed_later(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    labels = Labels(tmp_path, {"task": task.digest}, ["clean"])
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "takedowns").write_text("a file where the folder should be")
    items = items_of(drawn_of(task), task)
    with pytest.raises(Exception, match="takedowns"):
        report_illegal(Store.open(str(tmp_path / "blocked")), labels, items[0], "ada")
    assert labels.reported == {1: None}
    store = Store.open(str(tmp_path / "store"))
    for _ in range(2):
        file_missing(store, labels, items)
    assert [one.id for one in list_requests(store, pending=True)] == [labels.reported[1]]
    labels.close()


def test_an_answer_that_cannot_be_stored_is_refused_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with site(tmp_path, task_of(tmp_path)) as page:
        page.label("ada", "clean")
        before = (tmp_path / NAME).read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            assert page.act("ada", "label", 2, label="clean") == 503
        assert (tmp_path / NAME).read_bytes() == before
        assert page.act("ada", "label", 2, label="clean")["shown"]["item"] == 3


def test_answers_of_another_draw_or_class_are_refused(tmp_path: Path) -> None:
    labels = Labels(tmp_path, {"task": "a"}, ["clean", "watermark"])
    labels.add(1, Answer("watermark", "ada", START, "1"))
    with pytest.raises(LabelError, match="Another process"):
        Labels(tmp_path, {"task": "a"}, ["clean"])
    reading = Labels(tmp_path, {"task": "a"}, ["clean", "watermark"], writable=False)
    assert reading.answers == {1: {"ada": Answer("watermark", "ada", START, "1")}}
    reading.close()
    labels.close()
    with pytest.raises(LabelError, match="unknown class 'watermark'"):
        Labels(tmp_path, {"task": "a"}, ["clean"])
    with pytest.raises(LabelError, match="another release, version or draw"):
        Labels(tmp_path, {"task": "b"}, ["clean", "watermark"])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def test_a_person_labels_with_keys_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    with site(tmp_path, task_of(tmp_path, annotators=1, blur="true")) as page:

        def see(item: int, mode: str, said: str) -> None:
            one = "document.querySelector('#picture')"
            browser.wait(f"{one}.src.endsWith('/{item}') && !{one}.hidden && {one}.className.trim() === '{mode}'")
            browser.wait(f"document.querySelector('#said').textContent === '{said}'")

        browser.open(page.url)
        browser.wait("!document.querySelector('#start').hidden && document.activeElement.id === 'annotator'")
        browser.type("ada")
        browser.press("Enter")
        see(1, "blurred", "0 done, 6 left")
        browser.press("c")
        see(1, "", "0 done, 6 left")
        browser.press("g")
        see(1, "grey", "0 done, 6 left")
        browser.press("2")
        see(2, "blurred grey", "1 done, 5 left")
        browser.press("1")
        see(3, "blurred grey", "2 done, 4 left")
        browser.press("u")
        see(2, "blurred grey", "1 done, 5 left")
        browser.press("s")
        see(3, "blurred grey", "1 done, 5 left")
        browser.press("x")
        see(4, "blurred grey", "1 done, 4 left. The picture was reported, and will not be shown again")
        assert {item: one["ada"].label for item, one in page.labels.answers.items() if one} == {1: "clean"}
        assert [*page.labels.reported] == [3]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_keeps_to_the_accessibility_guidelines(browser: Browser, tmp_path: Path, scheme: str) -> None:
    with site(tmp_path, task_of(tmp_path, break_minutes=1)) as page:
        browser.prefer(prefers_color_scheme=scheme)
        browser.open(page.url)
        browser.wait("!document.querySelector('#start').hidden")
        assert browser.violations() == []
        page.label("ada", "clean")
        page.now += timedelta(minutes=2)
        browser.type("ada")
        browser.press("Enter")
        browser.wait("!document.querySelector('#break').hidden && !document.querySelector('#picture').hidden")
        assert browser.violations() == []


class Fetcher(FetcherClient):
    """Gives each URL's last word as a picture's colour."""

    def __init__(self) -> None:
        super().__init__(None)
        self.asked: list[str] = []

    async def fetch(self, url: str) -> bytes:
        self.asked.append(url)
        if url.endswith("gone"):
            raise SearchError(502, "The picture is gone.")
        return jpeg(url.split("/")[-1])


def test_pictures_that_are_not_kept_are_fetched_if_they_did_not_change() -> None:
    fetcher = Fetcher()
    urls = {1: "http://a.example/red", 2: "http://a.example/blue", 3: "http://a.example/gone"}
    digests = {1: hashlib.sha256(jpeg("red")).hexdigest(), 2: "0" * 64, 3: "0" * 64}
    with closing(Pictures({4: b"kept"}, urls, digests, fetcher)) as pictures:

        async def fetch() -> list[bytes | None]:
            return await asyncio.gather(*(pictures.jpeg(item) for item in (1, 1, 2, 3, 4, 5)))

        red, again, *others = asyncio.run(fetch())
        assert red is not None
        assert red == again
        assert others == [None, None, b"kept", None]
        assert fetcher.asked.count(urls[1]) == 1
        pictures.forget(1)
        pictures.forget(4)
        assert asyncio.run(fetch()) == [None] * 6
