"""Text lists: every line is a row or is counted, whatever it contains and however the file is stored."""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import dataset.candidates.text_lists as ours
import tracker.seeding.text_lists as theirs
from dataset.candidates.text_lists import lines
from dataset.candidates.text_lists.lines import TextListError
from dataset.candidates.text_lists.rows import read_blocks, read_names

HEADER = {"csv": b"url,text\n", "tsv": b"url\ttext\n", "jsonl": b"", "txt": b""}
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\t"), min_size=1)


def rows(data: bytes, kind: str, wanted: Sequence[str] = ("url", "text"), *, is_gzip: bool = False) -> list[Any]:
    blocks = read_blocks(io.BytesIO(data), kind, wanted, is_gzip=is_gzip)
    return [None if row is None else tuple(row) for block in blocks for row in block]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 7)


def test_tracker_and_dataset_read_text_lists_by_the_same_rules() -> None:
    folders = [Path(str(package.__file__)).parent for package in (ours, theirs)]
    mine, other = ({path.name: path.read_text("utf-8") for path in folder.glob("*.py")} for folder in folders)
    assert mine == other


@given(st.sampled_from(["tsv", "jsonl", "txt"]), st.lists(st.binary(max_size=30), max_size=20), st.booleans())
@example("jsonl", [b"\x00\r\x00"], False)
def test_every_line_that_is_not_blank_is_a_row_or_is_counted(kind: str, content: list[bytes], ends: bool) -> None:
    written = [line.replace(b"\n", b"") for line in content]
    data = HEADER[kind] + b"\n".join(written) + (b"\n" if ends else b"")
    assume(not data.startswith((b"\x1f\x8b", codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF8)))
    if b"\n" not in data:  # then a carriage return ends a line
        written = data.split(b"\r")
    full = [
        line
        for at, line in enumerate(written)
        if (line.removesuffix(b"\r") if kind == "tsv" else line.decode("utf-8", "surrogateescape").strip())
    ]
    found = rows(data, kind, ("url",) if kind == "txt" else ("url", "text"))
    assert len(found) == len(full)


@given(st.lists(st.tuples(TEXT, TEXT), max_size=10))
@example([("http://a.example/1", '"Still life" with fruit'), ("http://a.example/2", 'a "quote')])
def test_a_csv_whose_quotes_are_odd_loses_no_line(pairs: list[tuple[str, str]]) -> None:
    data = "".join(f"http://a.example/{url.replace(',', '')},{text.replace(',', '')}\n" for url, text in pairs)
    assert len(rows(HEADER["csv"] + data.encode(), "csv")) == len(pairs)


@given(st.lists(st.tuples(st.just("http://a"), st.text(st.characters(exclude_categories=["Cs"]))), max_size=10))
def test_a_csv_by_the_standard_is_read_as_python_reads_it(pairs: list[tuple[str, str]]) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(["url", "text"])
    writer.writerows(pairs)
    wanted = [(url, text.replace("\r\n", "\n")) for url, text in pairs]
    assert rows(file.getvalue().encode(), "csv") == wanted


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('http://a/1,"two\nlines"\nhttp://a/2,b\n', [("http://a/1", "two\nlines"), ("http://a/2", "b")]),
        ('http://a/1,"odd\nhttp://a/2,b\n', [("http://a/1", '"odd'), ("http://a/2", "b")]),
        ('http://a/1,"odd\nhttp://a/2,b"\n', [("http://a/1", '"odd'), ("http://a/2", 'b"')]),
        ('http://a/1,"Still life" with fruit\n', [("http://a/1", '"Still life" with fruit')]),
        ('http://a/1,5" nails\nhttp://a/2,b\n', [("http://a/1", '5" nails'), ("http://a/2", "b")]),
        ('"http://a/1","a, ""b"""\nhttp://a/2,b,c\n', [("http://a/1", 'a, "b"'), None]),
        ("\n\nhttp://a/1,b\r\n\r\nhttp://a/2,c", [("http://a/1", "b"), ("http://a/2", "c")]),
    ],
)
@pytest.mark.parametrize("block", [5, 1 << 20])
def test_a_quote_without_its_partner_is_a_character(
    monkeypatch: pytest.MonkeyPatch, text: str, found: list[Any], block: int
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", block)
    assert rows(HEADER["csv"] + text.encode(), "csv") == found


def test_a_quote_that_stays_open_costs_one_line_and_not_the_file() -> None:
    content = [f"http://a/{n},caption" for n in range(5_000)]
    content[7] = 'http://a/7,"caption'
    found = rows(HEADER["csv"] + "\n".join(content).encode(), "csv")
    assert found == [tuple(line.split(",")) for line in content]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ('"said ""one"", two"', 'said "one", two'),
        ('"Zwei"', "Zwei"),
        ('"Still life" with fruit', '"Still life" with fruit'),
        ('a "quote', 'a "quote'),
        ('"odd', '"odd'),
        ('"', '"'),
        ('"a\tb"', "a\tb"),
        ('""', ""),
    ],
)
def test_quotes_in_a_tsv_are_those_that_pandas_writes(field: str, value: str) -> None:
    data = HEADER["tsv"] + f"http://a/1\t{field}\nhttp://a/2\tnext\n".encode()
    assert rows(data, "tsv") == [("http://a/1", value), ("http://a/2", "next")]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "txt"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize(("end", "block"), [(b"\n", 7), (b"\r\n", 7), (b"\r\n", 8), (b"\r", 60)])
def test_marks_and_line_ends_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, kind: str, mark: bytes, end: bytes, block: int
) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", block)
    pairs = [("http://a/1", "einé"), ("http://a/2", "zwei")]
    match kind:
        case "txt":
            data, pairs = b"\n".join(url.encode() for url, _ in pairs), [(url,) for url, _ in pairs]  # type: ignore[misc]
        case "json" | "jsonl":
            written = [json.dumps({"text": text, "url": url}) for url, text in pairs]
            data = ("[\n" + ",\n".join(written) + "\n]\n" if kind == "json" else "\n".join(written)).encode()
        case _:
            comma = "," if kind == "csv" else "\t"
            data = "\n".join([f"url{comma}text", *(f"{url}{comma}{text}" for url, text in pairs)]).encode()
    data = mark + data.replace(b"\n", end)
    wanted = ("url",) if kind == "txt" else ("url", "text")
    assert rows(data, kind, wanted) == pairs
    assert rows(gzip.compress(data), kind, wanted, is_gzip=True) == pairs
    members = gzip.compress(data[:20]) + gzip.compress(b"") + gzip.compress(data[20:]) + bytes(100)
    assert rows(members, kind, wanted) == pairs  # told by its first bytes


def test_a_line_over_the_bound_is_one_row_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 100)
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 1_000)
    long = json.dumps({"url": "http://a/long", "text": '{"url": 1}' * 500})
    short = json.dumps({"url": "http://a/1", "text": "b"})
    assert rows(f"{short}\n{long}\n{short}\n{long}".encode(), "jsonl") == [("http://a/1", "b"), None] * 2
    table = f"url,text\nhttp://a/1,b\nhttp://a/long,{'x' * 5_000}\nhttp://a/2,c\n"
    assert rows(table.encode(), "csv") == [("http://a/1", "b"), None, ("http://a/2", "c")]


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text(),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)),
       st.sampled_from([None, 1]), st.integers(3, 40))  # fmt: skip
def test_an_array_has_a_row_for_each_element_wherever_the_blocks_end(
    value: object, indent: int | None, size: int
) -> None:
    elements = [{"url": "u", "text": value}, value, [1], {"url": value, "text": 1.5}]
    data = json.dumps(elements, indent=indent, ensure_ascii=False).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK_BYTES", size)
        found = rows(data, "json")
    second = (value.get("url"), value.get("text")) if isinstance(value, dict) else None
    assert found == [("u", value), second, None, (value, 1.5)]


@pytest.mark.parametrize("size", range(1, 9))
def test_a_number_is_whole_wherever_a_block_ends(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", size)
    data = b'[0.0, 12.5e-3, {"url": 1E+2}, -1e5, {"url": 0.25}, 7]'
    assert rows(data, "json", ("url",)) == [None, None, (100.0,), None, (0.25,), None]


@pytest.mark.parametrize(
    "data", [b'[{"url": "u"}', b'[{"url": "u"},]', b"[,]", b"[1 2]", b"[1.]", b'[{"url: 1}]', b"[] []"]
)
def test_an_array_that_is_broken_is_refused(data: bytes, small_blocks: None) -> None:
    with pytest.raises(TextListError, match=r"is (not )?a JSON array.*(fetch it again|check the file)$"):
        rows(data, "json")


def test_json_lines_that_are_called_json_are_read_as_lines() -> None:
    assert rows(b'{"url": 1}\n{"url": 2}\n', "json", ("url",)) == [(1,), (2,)]


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-12], lambda data: data[:40] + bytes(40) + data[80:], lambda data: data + b"rest"],
    ids=["cut", "overwritten", "something behind"],
)
def test_half_a_gzip_file_is_refused_as_a_list(damage: Any) -> None:
    content = "".join(f"http://a/{zlib.crc32(bytes([n]))}\n" for n in range(200)).encode()
    with pytest.raises(TextListError, match=r"gzip data that is damaged or breaks off .*: fetch it again"):
        rows(damage(gzip.compress(content)), "txt", ("url",))


def test_a_column_that_is_missing_or_there_twice_is_named() -> None:
    with pytest.raises(TextListError, match=r"^has no column 'TEXT'; it has url, text$"):
        rows(HEADER["csv"], "csv", ("url", "TEXT"))
    with pytest.raises(TextListError, match=r"^has two columns 'a'; it has a, b, b, a$"):
        rows(b"a,b,b,a\n1,2,3,4\n", "csv", ("a",))
    assert rows(b"a,b,b,c\n1,2,3,4\n", "csv", ("c", "a")) == [("4", "1")]
    with pytest.raises(TextListError, match=r"a \.txt list is bare URLs"):
        rows(b"http://a/1\n", "txt", ("url", "text"))
    with pytest.raises(TextListError, match="is UTF-16: write it as UTF-8"):
        rows("url,text\n".encode("utf-16"), "csv")
    assert read_names(io.BytesIO(b'{"a": 1}\n2\n{"b": 1}'), "jsonl", is_gzip=False) == ["a", "b"]


def test_commas_in_bare_urls_are_part_of_them() -> None:
    data = b"http://a/w_303,h_170/1.jpg\r\n\r\n  http://a/2.jpg?x=1,2 \n"
    assert rows(data, "txt", ("url",)) == [("http://a/w_303,h_170/1.jpg",), ("http://a/2.jpg?x=1,2",)]
