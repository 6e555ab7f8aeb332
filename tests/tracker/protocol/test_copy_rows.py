"""The buffer is read by a real Postgres into a table like a leaf of the pool."""

import os
from collections.abc import Iterator

import numpy as np
import psycopg
import pyarrow as pa
import pytest
from psycopg import sql

from tests.copy_buffer import copy_buffer
from tests.server_home import server_home
from tracker.database import embedded_postgres
from tracker.database.schema import candidate
from tracker.protocol.copy_rows import COLUMNS, CopyError

ODD_TEXTS = [
    "plain words",
    "",
    "\\",
    "\\N",
    "\\.",
    "C:\\new\\table\\r",
    "carriage\rreturn",
    "vertical\x0btab, form\x0cfeed, escape\x1b",
    "line\u2028and paragraph\u2029separators, next\x85line",
    "'quoted' \"twice\", 100 %; $1 {} --",
    "naïve Zürich 東京 🐟 \U0010ffff",
    " spaces around ",
    "NULL",
    "ends with a backslash\\",
    "long " * 5000,
]


@pytest.fixture(scope="module")
def database() -> Iterator[psycopg.Connection]:
    given = os.environ.get("SHOAL_TEST_DATABASE_URL")
    with server_home() as home:
        try:
            with psycopg.connect(given or embedded_postgres.start(home)) as connection:
                yield connection
                connection.rollback()
        finally:
            if not given:
                embedded_postgres.stop(home, mode="immediate")


@pytest.fixture
def leaf(database: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """A connection whose temporary table `leaf` has a leaf's columns."""
    database.execute("CREATE TYPE pg_temp.subset AS ENUM ('en', 'multi', 'nolang')")
    database.execute(
        "CREATE TEMPORARY TABLE leaf (pack int8 NOT NULL, pack_row int4 NOT NULL, leaf int4 NOT NULL, "
        "run_id int4 NOT NULL, attempt int2 NOT NULL, subset pg_temp.subset NOT NULL, language text, "
        "url text NOT NULL, text text NOT NULL, extra text NOT NULL)"
    )
    yield database
    database.rollback()


def candidates(texts: list[str | None], **columns: object) -> pa.Table:
    rows = len(texts)
    return pa.table(
        {
            "pack": pa.array(range(2**40, 2**40 + rows), pa.int64()),
            "pack_row": pa.array(range(rows), pa.int32()),
            "language": pa.array([("en", None, "zh-Latn")[row % 3] for row in range(rows)], pa.string()),
            "url": pa.array([f"https://example.com/{row}/ü%20.jpg" for row in range(rows)], pa.string()),
            "text": pa.array(texts, pa.string()),
            "page_url": ["https://example.com/"] * rows,
        }
        | columns
    )


def copied(connection: psycopg.Connection, buffer: bytes) -> list[tuple[object, ...]]:
    names = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
    with (
        connection.cursor() as cursor,
        cursor.copy(sql.SQL("COPY leaf ({}) FROM STDIN (FORMAT binary)").format(names)) as copy,
    ):
        copy.write(buffer)
    return connection.execute(sql.SQL("SELECT {} FROM leaf ORDER BY pack_row").format(names)).fetchall()


def expected(table: pa.Table, leaf: int, run_id: int, attempt: int, subset: str) -> list[tuple[object, ...]]:
    return [
        (
            *(row["pack"], row["pack_row"], leaf, run_id, attempt, subset),
            *(row["language"], row["url"], row["text"], row.get("extra") or ""),
        )
        for row in table.to_pylist()
    ]


def test_odd_strings_arrive_as_they_were(leaf: psycopg.Connection) -> None:
    table = candidates([*ODD_TEXTS])
    buffer = copy_buffer(table, leaf=12, run_id=3, subset="multi", attempt=2)
    assert copied(leaf, buffer) == expected(table, 12, 3, 2, "multi")


def test_a_lists_other_columns_arrive_as_they_were_and_none_is_empty(leaf: psycopg.Connection) -> None:
    table = candidates(["one", "two", "three"], extra=['{"similarity":0.3,"t":"\\t"}', None, ""])
    assert copied(leaf, copy_buffer(table, leaf=1, run_id=1, subset="en")) == expected(table, 1, 1, 1, "en")


def test_odd_urls_arrive_as_they_were(leaf: psycopg.Connection) -> None:
    urls = [f"https://example.com/{text}" for text in ODD_TEXTS]
    table = candidates([*ODD_TEXTS], url=urls)
    assert copied(leaf, copy_buffer(table, leaf=1, run_id=1, subset="en")) == expected(table, 1, 1, 1, "en")


def test_slices_and_chunks_send_their_own_rows_only(leaf: psycopg.Connection) -> None:
    table = pa.concat_tables([candidates([*ODD_TEXTS]), candidates([*ODD_TEXTS])]).slice(3, 20)
    table = table.set_column(1, "pack_row", pa.array(range(20), pa.int32()))
    assert copied(leaf, copy_buffer(table, leaf=1, run_id=1, subset="nolang")) == expected(table, 1, 1, 1, "nolang")


def test_what_lies_outside_a_slice_is_not_checked(leaf: psycopg.Connection) -> None:
    table = candidates(["not\0this one", "this one"]).slice(1)
    assert copied(leaf, copy_buffer(table, leaf=1, run_id=1, subset="en")) == expected(table, 1, 1, 1, "en")


def test_rows_without_any_language_arrive(leaf: psycopg.Connection) -> None:
    table = candidates(["one", "two"], language=pa.nulls(2))
    assert copied(leaf, copy_buffer(table, leaf=1, run_id=1, subset="nolang")) == expected(table, 1, 1, 1, "nolang")


def test_no_candidates_are_an_empty_copy(leaf: psycopg.Connection) -> None:
    assert copied(leaf, copy_buffer(candidates([]), leaf=1, run_id=1, subset="en")) == []


def test_the_largest_numbers_arrive(leaf: psycopg.Connection) -> None:
    table = candidates(["text"], pack=np.array([2**63 - 1]), pack_row=np.array([2**31 - 1], np.int32))
    buffer = copy_buffer(table, leaf=2**31 - 1, run_id=2**31 - 1, subset="en", attempt=2**15 - 1)
    assert copied(leaf, buffer) == expected(table, 2**31 - 1, 2**31 - 1, 2**15 - 1, "en")


def test_the_columns_are_the_pools() -> None:
    assert [column.name for column in candidate.columns] == list(COLUMNS)


@pytest.mark.parametrize("character", ["\0", "\t", "\n"])
@pytest.mark.parametrize("column", ["url", "text", "language"])
def test_a_character_that_the_pool_or_the_payload_cannot_hold_is_refused(character: str, column: str) -> None:
    with pytest.raises(CopyError, match=f"{column} contains"):
        copy_buffer(candidates(["fine"], **{column: [f"x{character}"]}), leaf=1, run_id=1, subset="en")


@pytest.mark.parametrize("column", ["pack", "pack_row", "url", "text"])
def test_a_missing_value_is_refused_instead_of_losing_its_row(column: str) -> None:
    table = candidates(["one", "two"])
    holed = pa.array([table[column][0].as_py(), None], table.schema.field(column).type)
    with pytest.raises(CopyError, match=f"have no {column}"):
        copy_buffer(candidates(["one", "two"], **{column: holed}), leaf=1, run_id=1, subset="en")
