"""Texts of groups, compared with a plain loop over their rows."""

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.dedup import group_texts
from dataset.dedup.group_texts import TEXTS, texts_of_groups

ROWS = st.lists(
    st.tuples(
        st.integers(0, 3), st.sampled_from(["a cat", "a dog", "", None]), st.sampled_from([0.25, 0.5, None]),
        st.sampled_from(["one.example", "two.example", ""]),
    ),
    max_size=12,
)  # fmt: skip


def table(rows: list[tuple[Any, ...]]) -> pa.Table:
    named = [(of, at, caption, similarity, host) for at, (of, caption, similarity, host) in enumerate(rows)]
    return pa.Table.from_pylist([dict(zip(TEXTS.names, row, strict=True)) for row in named], TEXTS)


def looped(rows: list[dict[str, Any]], most: int) -> dict[int, tuple[list[str], list[float | None], int]]:
    found: dict[int, tuple[list[str], list[float | None], int]] = {}
    ordered = sorted(rows, key=lambda row: (row["similarity"] is None, -(row["similarity"] or 0), row["id"]))
    for name in sorted({row["representative"] for row in rows}):
        mine = [row for row in ordered if row["representative"] == name]
        best: dict[str, float | None] = {}
        for row in mine:
            if row["caption"] is not None and len(best) < most:
                best.setdefault(row["caption"], row["similarity"])
        hosts = len({row["host"] for row in mine})
        found[name] = (list(best) or [""], list(best.values()) or [0.0], hosts)
    return found


@given(ROWS)
def test_captions_are_distinct_and_the_most_similar_come_first(rows: list[tuple[Any, ...]]) -> None:
    given_rows = table(rows)
    texts = texts_of_groups(given_rows)
    columns = (texts.captions, texts.similarities, texts.hosts)
    found = dict(
        zip(texts.representatives.tolist(), zip(*(one.to_pylist() for one in columns), strict=True), strict=True)
    )
    assert found == looped(given_rows.to_pylist(), 1_000)


def test_captions_beyond_the_limit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_texts, "MAX_CAPTIONS", 2)
    rows = [(1, name, at / 10, "one.example") for at, name in enumerate("abca")]
    texts = texts_of_groups(table([*rows, (2, "x", 0.1, "")]))
    assert texts.captions.to_pylist() == [["a", "c"], ["x"]]
    assert texts.hosts.to_pylist() == [1, 1]
