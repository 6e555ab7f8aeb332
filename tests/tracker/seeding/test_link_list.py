"""`tracker seed --url-col`: a link list is split into pieces that cover each row once, and is seeded once."""

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tracker.filling import listed_pack, new_run, scalar
from tests.tracker.functions.test_ingest_verbs import added, claim_one
from tests.tracker.functions.test_ingest_verbs import result as ingested
from tests.tracker.talking import Console
from tracker.database.database import Connection
from tracker.protocol.session import Session
from tracker.seeding import link_list
from tracker.seeding.link_list import Columns, ListError, read_listing

COLUMNS = Columns("URL", "TEXT")


@pytest.fixture
def console(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(database, monkeypatch, capsys)


def write_list(path: Path, rows: int = 10, row_group_size: int | None = None, **columns: object) -> Path:
    urls = [f"http://a.example/{i}.jpg" for i in range(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"URL": urls, "TEXT": ["a caption"] * rows} | columns)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def test_a_missing_column_is_one_sentence_with_the_columns_there_are(console: Console, tmp_path: Path) -> None:
    path = write_list(tmp_path / "a.parquet")
    said = console.refusal("seed", path, "--url-col", "url")
    assert said == f"tracker: {path} has no column 'url'; it has URL, TEXT"
    (tmp_path / "b.csv").write_text("link;text\n")
    assert "has no column 'URL'; it has link;text" in console.refusal("seed", tmp_path / "b.csv", "--url-col", "URL")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.parquet", b"no parquet", "cannot be read as parquet"),
        ("a.jsonl", b"no json\n", "does not begin with a JSON object"),
        ("a.csv.gz", b"not packed", "has gzip data that is damaged"),
        ("a.xlsx", b"http://a.example/1.jpg", "is not a link list: its name must end in one of"),
    ],
)
def test_a_file_that_is_not_a_link_list_is_refused(
    console: Console, tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert sentence in console.refusal("seed", tmp_path / name, "--url-col", "URL")


def test_an_empty_folder_is_refused_and_a_list_without_url_col_too(console: Console, tmp_path: Path) -> None:
    assert "there is no link list at" in console.refusal("seed", tmp_path, "--url-col", "URL")
    assert "there is no link list at" in console.refusal("seed", tmp_path / "gone.parquet", "--url-col", "URL")
    assert "with --url-col" in console.refusal("seed", write_list(tmp_path / "a.parquet"))
    assert "add --url-col" in console.refusal("seed", "a.warc.wat.gz", "--caption-col", "TEXT")


def test_pieces_cover_the_row_groups_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_list, "ROWS_A_PIECE", 7)
    write_list(tmp_path / "list" / "a.parquet", rows=20, row_group_size=3)
    write_list(tmp_path / "list" / "below" / "b.parquet", rows=2)
    write_list(tmp_path / "list" / "empty.parquet", rows=0)
    write_list(tmp_path / "list" / "_temporary" / "c.parquet")
    (tmp_path / "list" / "_SUCCESS").touch()
    (tmp_path / "list" / "README.md").touch()
    (tmp_path / "list" / "d.csv").write_text("URL,TEXT\n")
    pieces = read_listing([str(tmp_path / "list")], COLUMNS).pieces
    assert [(Path(p.list).name, p.first_group, p.groups, p.rows) for p in pieces] == [
        ("a.parquet", 0, 3, 9),
        ("a.parquet", 3, 3, 9),
        ("a.parquet", 6, 1, 2),
        ("b.parquet", 0, 1, 2),
        ("d.csv", 0, None, None),
    ]


def test_types_of_extra_columns_are_told_and_must_agree(tmp_path: Path) -> None:
    boxes = pa.array([[[0.5]]], pa.list_(pa.list_(pa.float32())))
    write_list(
        tmp_path / "a.parquet", rows=1, n=pa.array([1], pa.uint8()), boxes=boxes, when=pa.array([0], pa.date32())
    )
    columns = Columns("URL", extra=("n", "boxes", "when"))
    assert read_listing([str(tmp_path / "a.parquet")], columns).extra == {
        "n": "uint8",
        "boxes": "list<list<float>>",
        "when": "string",
    }
    write_list(tmp_path / "b.parquet", rows=1, n=["one"])
    with pytest.raises(ListError, match="column 'n' is string in"):
        read_listing([str(tmp_path)], Columns("URL", extra=("n",)))
    lines = [{"URL": "u", "n": 0.5, "tags": ["a"]}, {"URL": "v", "n": None}]
    with gzip.open(tmp_path / "c.jsonl.gz", "wt") as file:
        file.write("\n".join(map(json.dumps, lines)))
    found = read_listing([str(tmp_path / "c.jsonl.gz")], Columns("URL", extra=("n", "tags")))
    assert found.extra == {"n": "double", "tags": "list<string>"}


def test_the_column_of_checksums_comes_along_and_is_named_in_the_recipe(
    console: Console, admin: Connection, tmp_path: Path
) -> None:
    path = write_list(tmp_path / "a.parquet", sha256=["a" * 64] * 10, width=[1] * 10)
    console.json("seed", path, "--url-col", "URL", "--sha256-col", "sha256", "--extra-cols", "width")
    assert scalar(admin, "SELECT recipe FROM tracker.run") == {
        "filter": False, "extra": {"width": "int64", "sha256": "string"}, "sha256_column": "sha256",
    }  # fmt: skip
    assert scalar(admin, "SELECT payload -> 'extra' FROM tracker.job") == ["width", "sha256"]
    refused = console.refusal("seed", path, "--url-col", "URL", "--sha256-col", "width", "--run", "b")
    assert refused == "tracker: column 'width' is int64, not a sha256 as text: name another"
    assert "add --url-col" in console.refusal("seed", "a.warc.wat.gz", "--sha256-col", "sha256")


def test_a_list_is_seeded_once_and_its_run_has_no_filter(console: Console, admin: Connection, tmp_path: Path) -> None:
    path = write_list(tmp_path / "a.parquet", similarity=[0.5] * 10)
    command = (
        "seed",
        path,
        "--url-col",
        "URL",
        "--caption-col",
        "TEXT",
        "--extra-cols",
        "similarity",
        "--run",
        "laion",
    )
    first, second = console.json(*command), console.json(*command)
    assert (first["pieces"], first["new"], first["rows"], second["new"]) == (1, 1, 10, 0)
    assert scalar(admin, "SELECT count(*) FROM tracker.job") == 1
    assert scalar(admin, "SELECT recipe FROM tracker.run") == {"filter": False, "extra": {"similarity": "double"}}
    assert [row["command"] for row in console.json("log")["changes"]] == ["seed"]
    (row,) = console.json("lists")["lists"]
    assert (row["run"], row["list"], row["pieces"], row["read"]) == ("laion", str(path), 1, 0)


def test_duplicates_of_a_list_are_those_of_its_ingested_packs(
    console: Console, admin: Connection, register: Callable[[str], Session], tmp_path: Path
) -> None:
    path = write_list(tmp_path / "a.parquet")
    console.json("seed", path, "--url-col", "URL", "--caption-col", "TEXT", "--run", "laion")
    worker = register("ingest")
    piece = claim_one(worker)
    result = {"rows": 10, "candidates": 9, "dropped": {"bad_url": 1}, "packs": [[{"rows": 9, "bytes": 1}]]}
    worker.complete_list(piece, result)
    listed_pack(admin, piece.run_id, 9)  # of a WAT file of the same run
    assert console.json("lists")["lists"][0]["duplicates"] == 0
    for job in worker.claim(2):
        rows = added(worker, job, 5)
        worker.complete_ingest([(job, ingested(rows, duplicates=4))], [rows])
    (row,) = console.json("lists")["lists"]
    assert (row["candidates"], row["duplicates"], row["dropped"]) == (9, 4, {"bad_url": 1})


def test_how_long_a_lists_shards_stay_is_said_where_they_are_filtered(
    console: Console, admin: Connection, tmp_path: Path
) -> None:
    command = ("seed", write_list(tmp_path / "a.parquet"), "--url-col", "URL", "--run", "laion")
    assert "or add --filter" in console.refusal(*command, "--keep-shards", "7d")
    assert "--sample is only for WAT files" in console.refusal(*command, "--sample", 1)
    console.json(*command, "--filter", "--keep-shards", "7d")
    assert scalar(admin, "SELECT keep_shards FROM tracker.run") == "7d"


def test_a_list_without_a_filter_does_not_join_a_run_that_has_one(
    console: Console, admin: Connection, tmp_path: Path
) -> None:
    new_run(admin, "crawl")
    path = write_list(tmp_path / "a.parquet")
    assert "has another recipe" in console.refusal("seed", path, "--url-col", "URL", "--run", "crawl")
    assert console.json("seed", path, "--url-col", "URL", "--run", "crawl", "--filter")["new"] == 1


ROW = {"url": "https://a.example/1.jpg", "caption": "a"}


def json_lines(*rows: Mapping[str, object]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.mark.parametrize(
    "content",
    [
        json_lines(ROW | {"id": 1}, ROW | {"id": "x"}),
        b'{"url":"https://a.example/1.jpg","caption":"a","k":1,"k":2}\n',
        json_lines(ROW) + b'{"url":"https://a.example/2.jpg","caption":"\\ud83d"}\n',
        json_lines(ROW | {"caption": "x" * 1_100_000}, ROW),
        json_lines(*[{"url": "https://a.example/1.jpg"}] * 30_000, ROW),
        json_lines(ROW | {"caption": None}) * 2,
        b"not json\n" + json_lines(ROW),
    ],
    ids=["another key", "a key twice", "half a pair", "a long line", "a late key", "nulls only", "a bad line"],
)
def test_what_ingest_reads_is_not_refused_at_seed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.jsonl.gz").write_bytes(gzip.compress(content))
    assert len(read_listing([str(tmp_path)], Columns("url", "caption")).pieces) == 1


def test_a_key_that_no_json_object_has_is_refused_with_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines(ROW))
    (tmp_path / "b.json").write_text(json.dumps([ROW | {"lang": "en"}]))
    with pytest.raises(ListError, match=r"a\.jsonl has no column 'TEXT'; it has url, caption"):
        read_listing([str(tmp_path / "a.jsonl")], Columns("url", "TEXT"))
    sources = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.json")]
    assert len(read_listing(sources, Columns("url", "caption", "lang")).pieces) == 2


def test_types_of_json_columns_hold_what_was_found_in_any_file(tmp_path: Path) -> None:
    values: dict[str, list[object]] = {
        "int64": [1, None],
        "double": [1, 0.5],
        "bool": [True, False],
        "string": [1, "one"],
        "list<double>": [[], [1, 0.5]],
        "list<string>": [[], [None]],
        "list<list<int64>>": [[[]], [[1]]],
    }
    for at, name in enumerate(("a.jsonl", "b.jsonl")):
        (tmp_path / name).write_bytes(json_lines(ROW | {kind: of[at] for kind, of in values.items()}))
    assert read_listing([str(tmp_path)], Columns("url", extra=tuple(values))).extra == {kind: kind for kind in values}


def test_notes_in_a_folder_of_lists_are_ignored_and_alone_they_are_lists(tmp_path: Path) -> None:
    (tmp_path / "00000_stats.json").write_text("{}")
    (tmp_path / "README.txt").write_text("https://a.example/1.jpg\n")
    write_list(tmp_path / "00000.parquet")
    (piece,) = read_listing([str(tmp_path)], COLUMNS).pieces
    assert piece.list == str(tmp_path / "00000.parquet")
    (piece,) = read_listing([str(tmp_path / "README.txt")], Columns("anything")).pieces
    assert (piece.format, piece.rows) == ("txt", None)


def test_files_without_a_row_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "part-0.jsonl").touch()
    (tmp_path / "part-1.jsonl").write_bytes(json_lines(ROW))
    (piece,) = read_listing([str(tmp_path)], Columns("url", "caption")).pieces
    assert piece.list.endswith("part-1.jsonl")
    with pytest.raises(ListError, match="has no rows"):
        read_listing([str(tmp_path / "part-0.jsonl")], Columns("url"))


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (Columns("url", "lists"), "column 'lists' is list<element: string>, not text: name another"),
        (Columns("url", "struct"), "column 'struct' is struct<en: string>, not text: name another"),
        (Columns("lists"), "column 'lists' is list<element: string>, not text"),
        (Columns("url", "twice"), "has two columns 'twice'"),
        (Columns("url", extra=("twice",)), "has two columns 'twice'"),
    ],
)
def test_a_column_of_an_unsupported_type_is_refused_in_a_sentence(
    tmp_path: Path, columns: Columns, sentence: str
) -> None:
    names = ["url", "lists", "struct", "twice", "twice"]
    arrays = [pa.array(["u"]), pa.array([["a"]]), pa.array([{"en": "a"}]), pa.array([1]), pa.array([2])]
    pq.write_table(pa.Table.from_arrays(arrays, names=names), tmp_path / "list.parquet")
    with pytest.raises(ListError) as refusal:
        read_listing([str(tmp_path)], columns)
    assert sentence in str(refusal.value)
