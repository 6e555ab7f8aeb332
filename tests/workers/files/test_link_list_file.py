"""A link list as it is seeded and then read by an ingest worker: real files, in a folder, a bucket and on a server."""

import gzip
import io
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.candidates.link_list_rows import ListPiece, ListReport
from dataset.candidates.link_lists import read_list
from tests.file_server import FileServer, serving_files
from tests.object_store import S3, serving
from tracker.seeding.link_list import Columns, ListError, read_listing
from workers.errors import WorkerError
from workers.files.http_file import HttpFile, HttpParts, SourceError
from workers.files.link_list_file import ListGoneError, open_link_list

PAIRS = [(f"https://a.example/{n},{n}.jpg", f'Größe {n}, "im Bild" 🔴') for n in range(50)]
COLUMNS = Columns("url", "caption")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with serving() as served:
        for name, value in {
            "SHOAL_S3_ENDPOINT": served.endpoint,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "HOME": str(tmp_path),
        }.items():
            monkeypatch.setenv(name, value)
        yield served


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SHOAL_WAT_SLOTS", str(tmp_path / "slots"))
    with serving_files() as served:
        yield served


def written(kind: str) -> bytes:
    """The pairs as a file of a format; a .gz at its end packs it."""
    match kind.removesuffix(".gz"):
        case "parquet":
            file = io.BytesIO()
            urls, captions = zip(*PAIRS, strict=True)
            pq.write_table(pa.table({"url": urls, "caption": captions, "other": [b"x"] * 50}), file, row_group_size=20)
            data = file.getvalue()
        case "csv" | "tsv":
            comma = "," if kind.startswith("csv") else "\t"
            quoted = [f'"{url}"{comma}"{text.replace(chr(34), chr(34) * 2)}"' for url, text in PAIRS]
            data = "\n".join([f"url{comma}caption", *quoted]).encode("utf-8-sig")
        case "json":
            data = json.dumps([{"caption": text, "url": url} for url, text in PAIRS], indent=1).encode()
        case "txt":
            data = "\r\n".join(url for url, _ in PAIRS).encode()
        case _:
            lines = [
                json.dumps({"url": url, "caption": text, "id": n if n % 2 else "x"})
                for n, (url, text) in enumerate(PAIRS)
            ]
            data = "\n".join(lines).encode()
    return gzip.compress(data[:700]) + gzip.compress(data[700:]) if kind.endswith(".gz") else data


def ingested(sources: Sequence[str], columns: Columns = COLUMNS) -> tuple[ListReport, list[dict[str, Any]]]:
    """Seed a list and read all of its pieces as a worker does; the last report, and the rows."""
    packs: list[io.BytesIO] = []

    @contextmanager
    def write(pack: int, slot: int) -> Iterator[BinaryIO]:
        yield Kept(packs)

    listing = read_listing(sources, columns)
    for piece in listing.pieces:
        asked = ListPiece(piece.format, columns.url, columns.caption, None, listing.extra,
                          piece.first_group, piece.groups, is_gzip=piece.is_gzip)  # fmt: skip
        in_parts = piece.format == "parquet"
        with open_link_list(piece.list, piece.bytes, in_parts=in_parts, pause=lambda _: None) as source:
            report = read_list(source, asked, slots=1, write=write, on_progress=lambda _: None, metadata={})
    return report, [row for pack in packs for row in pq.read_table(io.BytesIO(pack.getvalue())).to_pylist()]


class Kept(io.BytesIO):
    """A file that stays readable once it is closed."""

    def __init__(self, kept: list[io.BytesIO]) -> None:
        super().__init__()
        kept.append(self)

    def close(self) -> None:
        """Keep it."""


KINDS = [
    "parquet",
    *(kind + packed for kind in ("csv", "tsv", "jsonl", "ndjson", "json", "txt") for packed in ("", ".gz")),
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_read_alike_in_a_folder_a_bucket_and_from_a_server(
    kind: str, tmp_path: Path, s3: S3, web: FileServer
) -> None:
    data = written(kind)
    (tmp_path / f"list.{kind}").write_bytes(data)
    s3.store(f"lists/list.{kind}", data)
    web.files[f"/list.{kind}"] = data
    columns = Columns("url") if kind.startswith("txt") else COLUMNS
    wanted = [(url, "" if kind.startswith("txt") else text) for url, text in PAIRS]
    places = [str(tmp_path / f"list.{kind}"), f"s3://crawl/lists/list.{kind}", f"{web.url}/list.{kind}?download=true"]
    for place in places:
        report, rows = ingested([place], columns)
        assert [(row["url"], row["text"]) for row in rows] == wanted
        assert report.rows == report.candidates + sum(report.dropped.values())


NAMES = ["plain", "part 1", "größe", "a#b", "50%", "a%20b", "q?x", "t=2024-01-01 00%3A00", "a&b+c", "é\u0301"]


def test_any_name_in_a_folder_or_bucket_is_opened(tmp_path: Path, s3: S3) -> None:
    (tmp_path / "below it").mkdir()
    for at, name in enumerate(NAMES):
        url = f"https://a.example/{at}"
        (tmp_path / "below it" / f"{name}.csv").write_text(f"url,caption\n{url},a\n", "utf-8")
        s3.store(f"lists of links/{name}.csv", f"url,caption\n{url},a\n".encode())
    wanted = {f"https://a.example/{at}" for at in range(len(NAMES))}
    for source in (str(tmp_path), tmp_path.as_uri(), "s3://crawl/lists of links", "s3://crawl/lists%20of%20links/"):
        assert {row["url"] for row in ingested([source])[1]} == wanted


def test_a_file_in_a_bucket_is_named_with_the_options_of_its_uri(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOAL_S3_ENDPOINT")
    s3.store("lists/a b.txt", b"https://a.example/1.jpg\n")
    options = f"?region=eu-west-1&scheme=http&endpoint_override={s3.endpoint.removeprefix('http://')}"
    (piece,) = read_listing([f"s3://crawl/lists{options}"], Columns("url")).pieces
    assert piece.list == f"s3://crawl/lists/a%20b.txt{options}"
    assert len(ingested([piece.list], Columns("url"))[1]) == 1


def test_a_column_of_each_kind_goes_through_a_real_file(tmp_path: Path) -> None:
    table = pa.table(
        {
            "url": pa.array([f"https://a.example/{n}" for n in range(3)], pa.string_view()),
            "caption": pa.array(["a", None, "c"]).dictionary_encode(),
            "extra url": [1, 2, 3],
            "boxes": pa.array([[{"x": 0.5, "of": [1]}], None, []]),
            "half": pa.array([[1.5], [], None], pa.list_(pa.float16())),
            "at": pa.array([1, 2**60, None], pa.timestamp("ns")),
            "tags": pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int8())),
            "a.b": ["dotted", None, "x"],
        }
    )
    pq.write_table(table, tmp_path / "list.parquet")
    columns = Columns("url", "caption", extra=("url", *table.column_names[2:]))
    _, rows = ingested([str(tmp_path / "list.parquet")], columns)
    assert [row["text"] for row in rows] == ["a", "", "c"]
    assert json.loads(rows[0]["extra"]) == {
        "url": "https://a.example/0",
        "extra url": 1,
        "boxes": ['{"x":0.5,"of":[1]}'],
        "half": [1.5],
        "at": "1970-01-01 00:00:00.000000001",
        "tags": '[["a",1]]',
        "a.b": "dotted",
    }


def test_a_list_that_is_gone_or_changed_is_not_read(tmp_path: Path, web: FileServer) -> None:
    web.files["/list.txt"] = b"https://a.example/1.jpg\n"
    (tmp_path / "list.txt").write_bytes(web.files["/list.txt"])
    for place in (str(tmp_path / "list.txt"), f"{web.url}/list.txt"):
        with pytest.raises(ListGoneError, match="has changed since it was seeded"):
            open_link_list(place, 5, in_parts=False, pause=lambda _: None)
    for place in (str(tmp_path), f"{tmp_path}/none.txt", f"{web.url}/none.txt", "s3://", "nothing://here"):
        with pytest.raises(ListGoneError, match=r"^(the link list .* does not exist here|cannot open the link list)"):
            open_link_list(place, 5, in_parts=False, pause=lambda _: None)


def test_a_served_parquet_file_is_read_by_its_parts_and_no_others(web: FileServer) -> None:
    pixels = {"pixels": [os.urandom(40_000) for _ in range(50)]}
    file = io.BytesIO()
    urls, captions = zip(*PAIRS, strict=True)
    pq.write_table(pa.table({"url": urls, "caption": captions} | pixels), file, row_group_size=25)
    web.files["/list.parquet"] = file.getvalue()  # 2 MB of pixels
    assert len(ingested([f"{web.url}/list.parquet"])[1]) == 50
    parts = [part.removeprefix("bytes=").split("-") for _, part in web.asked if part]
    assert len(parts) == len(web.asked)
    assert sum(int(stop) + 1 - int(start) for start, stop in parts) < 500_000


def test_a_served_list_is_resumed_where_it_broke(web: FileServer) -> None:
    web.files["/list.jsonl.gz"] = written("jsonl.gz")
    size = len(web.files["/list.jsonl.gz"])
    with open_link_list(f"{web.url}/list.jsonl.gz", size, in_parts=False, pause=lambda _: None) as file:
        assert web.asked == [("/list.jsonl.gz", None)]
        assert file.read() == web.files["/list.jsonl.gz"]
    web.plan = [1, 300, 200]
    waited: list[float] = []
    with io.BufferedReader(HttpFile(f"{web.url}/list.jsonl.gz", pause=waited.append)) as file:
        assert file.read() == web.files["/list.jsonl.gz"]
    assert [part for _, part in web.asked[1:]] == [None, "bytes=1-", "bytes=301-", "bytes=501-"]


def test_a_part_that_breaks_off_is_resumed_and_one_of_another_file_refused(web: FileServer) -> None:
    web.files["/a"] = bytes(range(200))
    parts = HttpParts(f"{web.url}/a", pause=lambda _: None)
    parts.seek(-50, os.SEEK_END)
    web.plan = [20]
    assert parts.read(40) == bytes(range(150, 190))
    assert [part for _, part in web.asked] == ["bytes=0-0", "bytes=150-189", "bytes=170-189"]
    assert (parts.read(), parts.read(), parts.tell()) == (bytes(range(190, 200)), b"", 200)
    parts.seek(0)
    web.etags = ['"two"']
    with pytest.raises(SourceError, match="has changed while it was read"):
        parts.read(10)


def test_a_server_without_parts_gives_text_lists_and_no_parquet(web: FileServer) -> None:
    web.gives_parts = False
    web.files |= {"/list.csv": written("csv"), "/list.parquet": written("parquet")}
    assert len(ingested([f"{web.url}/list.csv"])[1]) == 50
    with pytest.raises(ListError, match=r"the server of .* does not support ranges: download it"):
        read_listing([f"{web.url}/list.parquet"], COLUMNS)
    with pytest.raises(WorkerError, match="cannot be read in parts"):
        HttpParts(f"{web.url}/list.parquet")


def test_a_list_that_is_stored_compressed_is_unpacked_whatever_its_name(web: FileServer) -> None:
    web.headers["Content-Encoding"] = "gzip"
    web.files["/list.jsonl"] = written("jsonl.gz")
    assert [(row["url"], row["text"]) for row in ingested([f"{web.url}/list.jsonl"])[1]] == PAIRS
