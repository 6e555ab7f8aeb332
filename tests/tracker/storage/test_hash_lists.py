"""`tracker hash-lists`: a list is accepted completely or not at all, is logged, and reaches workers; no hash is
shown.
"""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tracker.talking import Console
from tracker.protocol.session import Session

MD5, SHA256, PDQ = "0123456789abcdef" * 2, "89abcdef01234567" * 4, "fedcba9876543210" * 4


@pytest.fixture
def console(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Console:
    monkeypatch.setenv("SHOAL_STORE", str(tmp_path / "store"))
    return Console(database, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", f"{MD5}\nxyz\n", "line 2 of"),
        ("a.txt", f"{SHA256}\n", "choose one with --kind"),
        ("a.txt", "# nothing\n\n", "contains no hash"),
        ("a.csv", f"md5,note\n{SHA256},x\n", "is not a valid md5: it needs 32 hexadecimal digits"),
        ("a.csv", f"hash\n{MD5}\n", "columns named sha256, md5, pdq"),
        ("a.parquet", "no parquet", "cannot be read"),
    ],
)
def test_a_file_that_is_not_a_hash_list_is_refused_completely(
    console: Console, tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    (tmp_path / name).write_text(content)
    said = console.refusal("hash-lists", "add", tmp_path / name, "--reason", "test")
    assert sentence in said
    assert not any(digest in said for digest in (MD5, SHA256))
    assert console.json("hash-lists", "list") == {"lists": []}


def test_a_list_reaches_workers_until_it_is_removed(
    console: Console, tmp_path: Path, register: Callable[[str], Session]
) -> None:
    worker = register("download")
    assert worker.hash_lists() == {}
    (tmp_path / "police.txt").write_text(f"# from them\n{MD5.upper()}\n{SHA256}\n{SHA256}\n")
    added = console.json(
        "hash-lists", "add", tmp_path / "police.txt", "--kind", "sha256", "--reason", "a court's order"
    )
    assert added["hashes"] == {"sha256": 1, "md5": 1, "pdq": 0}
    pq.write_table(pa.table({"pdq": [PDQ, None], "note": ["x", "y"]}), tmp_path / "near.parquet")
    console.json("hash-lists", "add", tmp_path / "near.parquet", "--reason", "test")
    (given,) = [row for row in console.json("hash-lists", "list")["lists"] if row["name"] == "police"]
    assert len(worker.hash_lists()) == 2
    assert worker.hash_lists()[given["path"]] == given["sha256"]
    assert "there is a list police already" in console.refusal(
        "hash-lists", "add", tmp_path / "police.txt", "--kind", "sha256", "--reason", "again"
    )
    assert "nothing was changed" in console("hash-lists", "remove", "police").err
    assert len(worker.hash_lists()) == 2
    console.json("hash-lists", "remove", "police", "--yes")
    assert given["path"] not in worker.hash_lists()
    assert "there is no list police" in console.refusal("hash-lists", "remove", "police", "--yes")
    logged = console("log", "--json").out
    assert [row["command"] for row in console.json("log")["changes"]] == [
        "hash-lists remove",
        *2 * ["hash-lists add", "hash-lists write"],
    ]
    assert not any(digest in logged for digest in (MD5, SHA256, PDQ))


def test_a_list_that_is_refused_for_its_name_leaves_no_file(console: Console, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{MD5}\n")
    console.json("hash-lists", "add", tmp_path / "a.txt", "--reason", "test")
    (first,) = (tmp_path / "store").rglob("*.*")
    console.refusal("hash-lists", "add", tmp_path / "a.txt", "--reason", "again")
    console.refusal("hash-lists", "add", tmp_path / "a.txt", "--reason", "test", "--name", "no name/for a list")
    assert [*(tmp_path / "store").rglob("*.*")] == [first]


def test_a_list_that_cannot_be_written_is_not_in_force(
    console: Console, tmp_path: Path, register: Callable[[str], Session]
) -> None:
    (tmp_path / "a.txt").write_text(f"{MD5}\n")
    (tmp_path / "store").write_text("a file where the store's folder should be")
    assert "the list cannot be written to" in console.refusal(
        "hash-lists", "add", tmp_path / "a.txt", "--reason", "test"
    )
    assert register("download").hash_lists() == {}
