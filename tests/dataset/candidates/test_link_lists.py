"""Link lists: every row becomes a candidate or is counted, whatever it contains."""

import gzip
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataset.candidates import link_list_rows, link_lists
from dataset.candidates.link_list_rows import Dropped, ListPiece, ListReadError, ListReport
from dataset.candidates.link_lists import read_list
from dataset.candidates.urls import parse_url
from dataset.formats.packs import LIST_PACK_SCHEMA
from dataset.recipe.extra_columns import ExtraError, arrow_type, unpack_extra

BASE: dict[str, Any] = {"url": "URL", "caption": "TEXT", "language": None, "extra": {}}


@dataclass
class Packs:
    """Packs in memory; a file whose block fails is not there."""

    files: dict[tuple[int, int], bytes] = field(default_factory=dict)

    @contextmanager
    def write(self, pack: int, slot: int) -> Iterator[BinaryIO]:
        file = io.BytesIO()
        yield file
        self.files[pack, slot] = file.getvalue()

    def tables(self) -> list[pa.Table]:
        return [pq.read_table(io.BytesIO(data)) for data in self.files.values()]

    def rows(self) -> list[dict[str, Any]]:
        return [row for table in self.tables() for row in table.to_pylist()]


def read(data: bytes, kind: str, slots: int = 1, **changes: Any) -> tuple[ListReport, Packs]:
    packs = Packs()
    report = read_list(
        io.BytesIO(data),
        ListPiece(format=kind, **BASE | changes),
        slots=slots,
        write=packs.write,
        on_progress=lambda n: None,
        metadata={"list": "x"},
    )
    assert report.rows == report.candidates + sum(report.dropped.values())
    assert sum(map(len, packs.tables())) == report.candidates
    return report, packs


def parquet(columns: dict[str, Any], row_group_size: int | None = None) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=row_group_size)
    return file.getvalue()


def not_utf8(values: Sequence[bytes | None]) -> pa.Array:
    """A column that calls itself text and is none."""
    raw = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())


def test_a_missing_column_is_named_with_the_existing_ones() -> None:
    data = parquet({"url": ["http://a.example/1.jpg"], "caption": ["one"]})
    with pytest.raises(ListReadError, match=r"no column 'URL'; it has url, caption"):
        read(data, "parquet")
    with pytest.raises(ListReadError, match=r"no column 'URL'; it has url, caption"):
        read(b"url,caption\n", "csv")


@pytest.mark.parametrize("kind", ["parquet", "csv.gz"])
def test_a_file_of_another_format_is_refused(kind: str) -> None:
    with pytest.raises(ListReadError, match=r"(check the file|fetch it again)"):
        read(b"<html>no list</html>", kind.partition(".")[0], is_gzip=kind.endswith("gz"))


def test_bad_rows_are_dropped_each_for_its_reason() -> None:
    urls = [b"http://a.example/1.jpg", None, b"  ", b"http://a.example/\xff", b"http://a b.example/", b"h" * 9_000]
    report, packs = read(
        parquet({"URL": not_utf8([*urls, b"http://c"]), "TEXT": not_utf8([b"t"] * 6 + [b"\xfe"])}), "parquet"
    )
    assert dict(report.dropped) == {"no_url": 2, "not_utf8": 2, "bad_url": 1, "too_long": 1}
    assert [row["url"] for row in packs.rows()] == ["http://a.example/1.jpg"]
    assert report.to_json()["dropped"]["unreadable"] == 0


def test_a_url_is_kept_where_a_browser_takes_it_and_mended_for_a_payload() -> None:
    urls = {
        "https://h.example/a b.jpg": "https://h.example/a b.jpg",
        " \x1fhttps://h.example/a.jpg\x0b\n": "https://h.example/a.jpg",
        "https:/h.example/a.jpg": "https:/h.example/a.jpg",
        "https:\\\\h.example\\a.jpg": "https:\\\\h.example\\a.jpg",
        "https://h.example/\ta\r\n.jpg": "https://h.example/a.jpg",
        "https://h.example/a\0b\x7f.jpg": "https://h.example/a%00b\x7f.jpg",
        "https://h .example/a.jpg": None,
        "https://h\x7f.example/a.jpg": None,
        "https://h\0.example/a.jpg": None,
    }
    report, packs = read(parquet({"URL": list(urls), "TEXT": ["t"] * len(urls)}), "parquet")
    kept = [row["url"] for row in packs.rows()]
    assert kept == [url for url in urls.values() if url is not None]
    assert (report.dropped["bad_url"], report.mended) == (3, 3)
    for spelling, url in urls.items():
        assert url is None or parse_url(url) == parse_url(spelling)


def test_broken_lines_spoil_no_others() -> None:
    lines = (
        b"URL,TEXT\nhttp://a.example/1,one\nhttp://a.example/2\nhttp://a.example/\xff,bad\n\nhttp://a.example/3,three\n"
    )
    report, packs = read(lines, "csv")
    assert dict(report.dropped) == {"unreadable": 1, "no_url": 0, "not_utf8": 1, "bad_url": 0, "too_long": 0}
    assert [row["text"] for row in packs.rows()] == ["one", "three"]
    lines = b'{"URL": "http://a.example/1"}\nnot json\n[1]\n{"URL": null}\n{"URL": "http://b", "TEXT": "\\ud800"}\n'
    report, packs = read(lines, "jsonl")
    assert {reason: n for reason, n in report.dropped.items() if n} == {"unreadable": 2, "no_url": 1, "not_utf8": 1}
    assert [(row["url"], row["text"]) for row in packs.rows()] == [("http://a.example/1", "")]


def test_captions_stay_as_they_are_but_for_what_a_line_cannot_hold() -> None:
    texts = ["  two  spaces &amp; ", "a\tb\nc\0d", "東京\u2028🐟", None]
    report, packs = read(parquet({"URL": [f" http://a.example/{i} " for i in range(4)], "TEXT": texts}), "parquet")
    assert [row["text"] for row in packs.rows()] == ["  two  spaces &amp; ", "a b c d", "東京\u2028🐟", ""]
    assert [row["url"] for row in packs.rows()] == [f"http://a.example/{i}" for i in range(4)]
    assert report.mended == 1


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_candidates(kind: str) -> None:
    rows = [("http://a.example/1", 'said "one", two'), ("http://a.example/2", "Zwei")]
    match kind:
        case "jsonl":
            data = b"\n".join(json.dumps({"URL": url, "TEXT": text}).encode() for url, text in rows)
        case "parquet":
            data = parquet({"URL": [url for url, _ in rows], "TEXT": [text for _, text in rows]})
        case _:
            comma = "," if kind == "csv" else "\t"
            quoted = [f'{url}{comma}"{text.replace(chr(34), 2 * chr(34))}"' for url, text in rows]
            data = "\ufeff".encode() + "\r\n".join([f"URL{comma}TEXT", *quoted]).encode()
    _, packs = read(data, kind)
    assert [(row["url"], row["text"]) for row in packs.rows()] == rows
    if kind != "parquet":
        _, zipped = read(gzip.compress(data), kind, is_gzip=True)
        assert zipped.rows() == packs.rows()


def test_the_language_is_the_lists_own_or_none() -> None:
    data = parquet(
        {"URL": [f"http://a.example/{i}" for i in range(4)], "TEXT": ["x"] * 4, "L": ["en", "de", None, "??"]}
    )
    _, packs = read(data, "parquet", language="L")
    assert [(row["language"], row["subset"]) for row in packs.rows()] == [
        ("en", "en"),
        ("de", "multi"),
        (None, "nolang"),
        (None, "nolang"),
    ]
    _, packs = read(data, "parquet")
    assert {row["subset"] for row in packs.rows()} == {"nolang"}


def test_row_groups_of_a_piece_are_read_and_no_others() -> None:
    data = parquet({"URL": [f"http://a.example/{i}" for i in range(10)], "TEXT": ["x"] * 10}, row_group_size=2)
    _, packs = read(data, "parquet", first_group=1, groups=2)
    assert [row["url"][-1] for row in packs.rows()] == ["2", "3", "4", "5"]
    with pytest.raises(ListReadError, match="fewer row groups"):
        read(data, "parquet", first_group=4, groups=2)


def test_a_long_piece_becomes_several_packs_each_split_by_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_list_rows, "ROWS_HELD", 10)
    monkeypatch.setattr(link_lists, "ROWS_A_PACK", 30)
    lines = b"URL,TEXT\n" + b"".join(b"http://a.example/%d,x\n" % i for i in range(100))
    report, packs = read(lines, "csv", slots=3)
    assert [sum(pack) for pack in report.packs] == [30, 30, 30, 10]
    assert sorted(packs.files) == [(pack, slot) for pack in range(4) for slot in range(3)]
    assert all(table.schema.equals(LIST_PACK_SCHEMA) for table in packs.tables())
    assert len({row["url"] for row in packs.rows()}) == 100


def test_a_pack_of_long_captions_has_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_list_rows, "ROWS_HELD", 10)
    monkeypatch.setattr(link_lists, "BYTES_A_PACK", 15_000)
    lines = b"URL,TEXT\n" + b"".join(b"http://a.example/%d,%s\n" % (i, b"x" * 1_000) for i in range(40))
    report, _ = read(lines, "csv")
    assert report.packs == [[20], [20]]


def test_extra_columns_come_along_in_their_types() -> None:
    columns = {
        "similarity": pa.array([0.1 + 0.2, None], pa.float64()),
        "hash": pa.array([-(2**63), 2**63 - 1], pa.int64()),
        "punsafe": pa.array([0.1, float("nan")], pa.float32()),
        "NSFW": pa.array(["UNLIKELY\t\n\0", ""]).dictionary_encode(),
        "face_bboxes": pa.array([[[0.5, 1.0]], []], pa.list_(pa.list_(pa.float32()))),
        "watermarked": pa.array([True, None]),
    }
    types = {name: str(column.type) for name, column in columns.items()}
    types |= {"NSFW": "string", "face_bboxes": "list<list<float>>"}
    data = parquet({"URL": ["http://a.example/1", "http://a.example/2"], "TEXT": ["a", "b"]} | columns)
    _, packs = read(data, "parquet", extra=types)
    packed = [row["extra"] for row in packs.rows()]
    assert not any(set(row) & set("\t\n\0") for row in packed)
    back = pa.table(unpack_extra(packed, types))
    assert back.schema == pa.schema([(name, arrow_type(kind)) for name, kind in types.items()])
    wanted = pa.table(columns | {"NSFW": columns["NSFW"].dictionary_decode()}).to_pydict()
    assert str(back.to_pydict()) == str(wanted)  # by their spelling: NaN equals nothing


def test_a_value_that_is_not_of_its_columns_type_becomes_null_and_is_counted() -> None:
    lines = b'{"URL": "http://a.example/1", "n": 1}\n{"URL": "http://a.example/2", "n": "many"}\n{"URL": "http://a.example/3"}\n'
    report, packs = read(lines, "jsonl", extra={"n": "int64"})
    assert [row["extra"] for row in packs.rows()] == ['{"n":1}', "", ""]
    assert report.bad_extra == 1


def test_a_url_column_may_be_an_extra_column_too() -> None:
    _, packs = read(b"URL,TEXT\nhttp://a.example/1,one\n", "csv", extra={"TEXT": "string"})
    assert packs.rows()[0]["extra"] == '{"TEXT":"one"}'


@pytest.mark.parametrize("name", ["tensor", "list<tensor>", "timestamp[s]", None, 3, "list<"])
def test_a_type_that_nobody_keeps_is_refused(name: object) -> None:
    with pytest.raises(ExtraError):
        arrow_type(name)


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=20))
def test_whatever_bytes_a_parquet_list_holds_every_row_is_accounted_for(rows: list[tuple[bytes, bytes]]) -> None:
    data = parquet({"URL": not_utf8([url for url, _ in rows]), "TEXT": not_utf8([text for _, text in rows])})
    report, packs = read(data, "parquet")
    assert report.rows == len(rows)
    assert not any(set(row["url"] + row["text"]) & set("\t\n\0") for row in packs.rows())


@given(st.binary(max_size=200))
@example(b"\x1f\x8b")
def test_whatever_bytes_a_text_list_holds_nothing_escapes(data: bytes) -> None:
    for kind in ("csv", "tsv", "jsonl"):
        # JSON lines get a line before them, too, so that no bytes look like gzip or UTF-16.
        report, packs = read({"jsonl": b"\n", "tsv": b"URL\tTEXT\n", "csv": b"URL,TEXT\n"}[kind] + data, kind)
        assert set(report.dropped) <= set(Dropped)
        assert not any(set(row["url"] + row["text"]) & set("\t\n\0") for row in packs.rows())
