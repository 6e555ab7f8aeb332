import pytest

from tracker.protocol.payload import CandidateLine, PayloadError, read_payload


def test_each_line_is_a_link_at_its_position() -> None:
    payload = "812\t4\t1\ten\thttps://a.example/1.jpg\tA red circle\n813\t0\t2\t\thttps://b.example/2.jpg\tRotkäppchen"
    assert read_payload(payload) == [
        CandidateLine(0, 812, 4, 1, "en", "https://a.example/1.jpg", "A red circle"),
        CandidateLine(1, 813, 0, 2, None, "https://b.example/2.jpg", "Rotkäppchen"),
    ]


def test_an_empty_payload_has_no_links() -> None:
    assert read_payload("") == []


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e", "\r"])
def test_only_a_newline_ends_a_line(character: str) -> None:
    text = f"before{character}after"
    lines = read_payload(f"1\t0\t1\t\thttps://a.example\t{text}\n1\t1\t1\t\thttps://b.example\tnext")
    assert [line.text for line in lines] == [text, "next"]


def test_the_text_may_hold_backslashes_and_may_be_empty() -> None:
    assert [line.text for line in read_payload("1\t0\t1\t\tu\tC:\\new\\t\n1\t1\t1\t\tu\t")] == ["C:\\new\\t", ""]


def test_a_link_of_a_list_brings_its_other_columns() -> None:
    lines = read_payload('1\t0\t1\t\tu\ttext\t{"punsafe":0.5}\n1\t1\t1\t\tu\ttext')
    assert [(line.text, line.extra) for line in lines] == [("text", '{"punsafe":0.5}'), ("text", "")]


@pytest.mark.parametrize("line", ["", "1\t2\t3\ten\thttps://a.example", "pack\t0\t1\ten\thttps://a.example\ttext"])
def test_a_line_that_is_not_a_link_is_an_error_with_its_position(line: str) -> None:
    with pytest.raises(PayloadError, match="line 1 "):
        read_payload(f"1\t0\t1\t\thttps://a.example\ttext\n{line}")
