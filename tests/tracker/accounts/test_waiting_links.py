"""`tracker takedown` blanks denied links wherever they wait, and no other link is lost."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dataset.formats.parts import pair_hash
from dataset.formats.takedowns import Entry
from dataset.safety.hash_lists import HashLists
from dataset.store.store import Store
from dataset.takedown.requests import file_request
from tests.tracker.filling import fill_pool, new_run, set_setting
from tests.tracker.talking import Console
from tracker.accounts.audit import audit_exact
from tracker.database.database import Connection
from tracker.protocol.payload import read_payload
from tracker.protocol.session import Session


@pytest.fixture
def console(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Console:
    monkeypatch.setenv("SHOAL_STORE", str(tmp_path / "store"))
    return Console(database, monkeypatch, capsys)


def url_of(at: int) -> str:
    return f"http://host-{at % 97}.example/{at}.jpg"


def test_denied_links_are_blanked_in_pool_again_and_batches_and_still_counted(
    console: Console, admin: Connection, tmp_path: Path, register: Callable[[str], Session]
) -> None:
    run = new_run(admin)
    set_setting(admin, "batch_size", 100)
    fill_pool(admin, run, 3_000)  # of which a draw takes a random share of the pages, never all
    worker = register("download")
    drawn = worker.draw()
    assert drawn is not None
    worker.release(drawn)  # its batch waits, with its payload
    admin.execute(
        "WITH moved AS (DELETE FROM tracker.candidate WHERE pack_row IN (SELECT pack_row FROM tracker.candidate "
        "ORDER BY pack_row LIMIT 50) RETURNING *) INSERT INTO tracker.again (due_at, run_id, subset, attempt, pack, "
        "pack_row, language, url, text) SELECT now(), run_id, subset, attempt, pack, pack_row, language, url, text "
        "FROM moved"
    )
    (leaf,) = admin.execute("SELECT leaf FROM tracker.leaf WHERE subset = 'en'").fetchall()
    for account, place, n in (("again", None, 50), ("pool", leaf["leaf"], -50)):
        admin.execute(
            "INSERT INTO tracker.ledger (run_id, account, subset, leaf, n, job_id) VALUES (%s, %s, 'en', %s, %s, %s)",
            (run, account, place, n, drawn.job_id),
        )
    before = links(admin)
    assert all(before.values())
    some = [next(iter(urls)) for urls in before.values()]
    host = "host-7.example"
    texts = {url_of(at): f"a caption {at}" for at in range(3_000)}
    file_request(
        Store.open(str(tmp_path / "store")),
        [Entry(kind="url", value=some[0]), Entry(kind="url", value=some[1]),
         Entry(kind="hash", value=str(pair_hash(some[2], texts[some[2]]))), Entry(kind="host", value=host)],
        "privacy",
    )  # fmt: skip
    denied = {url for urls in before.values() for url in urls if url in some or f"/{host}/" in url}
    done = console.json("takedown")
    assert (done["lists"], done["links"], done["held_batches"]) == (1, len(denied), 0)
    assert links(admin) == {place: urls - denied for place, urls in before.items()}
    assert console.json("takedown")["links"] == 0
    assert audit_exact(admin, str(tmp_path / "store")).holds
    (noted,) = (tmp_path / "store" / "takedowns" / "waiting").iterdir()
    assert json.loads(noted.read_text())["links"] == 0


def links(admin: Connection) -> dict[str, set[str]]:
    """The URLs that wait in each place, blank ones aside."""
    found = {name: {row["url"] for row in admin.execute(f"SELECT url FROM tracker.{name} WHERE url <> ''".encode())}
             for name in ("candidate", "again")}  # fmt: skip
    payloads = admin.execute("SELECT payload FROM tracker.batch").fetchall()
    return found | {"batch": {line.split("\t")[4] for row in payloads for line in row["payload"].split("\n")} - {""}}


def test_a_blanked_link_ends_as_blocked_and_says_nothing() -> None:
    line = "1\t2\t1\t\t\t"
    (link,) = read_payload(line)
    assert (link.url, link.text, link.language) == ("", "", None)
    assert HashLists().names_link(link.url)
