"""Settings of a role, a database, the environment or another client of the pooler do not change what Shoal stores."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psycopg
import pyarrow as pa
import pytest
from psycopg.conninfo import make_conninfo

from tests.bouncer import Bouncer
from tests.copy_buffer import copy_buffer
from tests.server_home import server_home
from tests.tracker.filling import fill_pool, new_run, scalar
from tests.tracker.talking import Console
from tracker.database.database import SESSION, Connection, connect
from tracker.database.migrate import migrate
from tracker.errors import TrackerError
from tracker.protocol.copy_rows import copy_into
from tracker.protocol.session import Session

ODD = {
    "client_encoding": "LATIN1",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Kathmandu",
    "standard_conforming_strings": "off",
    "search_path": "trap, tracker",
    "bytea_output": "escape",
    "extra_float_digits": "0",
}
CAPTION = "größe 猫 \\d"


@pytest.fixture
def odd(server: str, database: str, admin: Connection) -> str:
    """The URL of a database whose role sets everything otherwise, with tables of the same names in its way."""
    name = admin.info.dbname
    for setting, value in ODD.items():
        of = f"ALTER ROLE postgres IN DATABASE {name} SET {setting} = "
        admin.execute((of + (value if setting == "search_path" else f"'{value}'")).encode())
    admin.execute("CREATE SCHEMA trap")
    for row in admin.execute("SELECT relname FROM pg_class WHERE relnamespace = 'tracker'::regnamespace").fetchall():
        admin.execute(f'CREATE TABLE IF NOT EXISTS trap."{row["relname"]}" (trapped int)'.encode())
    return database


@pytest.fixture
def bouncer(odd: str) -> Iterator[Bouncer]:
    """With one connection to the server, which all clients take turns on."""
    if Bouncer.program() is None:
        pytest.skip("pgbouncer is not installed")
    with server_home() as home, closing(Bouncer(odd, home / "bouncer", pool_size=1)) as running:
        yield running


@pytest.fixture(params=["directly", "through pgbouncer"])
def way(request: pytest.FixtureRequest, odd: str) -> str:
    if request.param == "directly":
        return odd
    bouncer: Bouncer = request.getfixturevalue("bouncer")
    return bouncer.url("postgres")


def shown(connection: Connection) -> dict[str, object]:
    return {name: scalar(connection, f"SHOW {name}") for name in SESSION}


def test_a_session_is_the_same_whatever_role_and_environment_say(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    monkeypatch.setenv("PGDATESTYLE", "German")
    monkeypatch.setenv("PGTZ", "America/Lima")
    with connect(make_conninfo(way, client_encoding="SQL_ASCII")) as connection:
        assert shown(connection) == SESSION


def test_a_client_that_takes_turns_on_the_same_server_connection_changes_nothing(bouncer: Bouncer) -> None:
    url = bouncer.url("postgres")
    with connect(url) as ours, psycopg.connect(url, autocommit=True, client_encoding="LATIN1") as other:
        other.execute("SET TimeZone = 'Europe/Berlin'")
        for _ in range(3):
            assert shown(ours) == SESSION
            assert other.execute("SHOW TimeZone").fetchone() == ("Europe/Berlin",)
            assert other.execute("SHOW client_encoding").fetchone() == ("LATIN1",)


def test_a_caption_is_stored_as_it_is(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with connect(way) as connection:
        run_id = new_run(connection)
        row = connection.execute("SELECT leaf, relation FROM tracker.leaf WHERE subset = 'en'").fetchone()
        assert row is not None
        columns = {"pack": pa.array([1]), "pack_row": pa.array([0], pa.int32()), "language": pa.array(["en"])}
        table = pa.table(columns | {"url": ["https://images.example/1.jpg"], "text": [CAPTION]})
        copy_into(connection, row["relation"], copy_buffer(table, leaf=row["leaf"], run_id=run_id, subset="en"))
        assert scalar(connection, "SELECT text FROM tracker.candidate") == CAPTION


def test_every_command_works_whatever_the_session_was(
    odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHOAL_STORE", str(tmp_path))
    console = Console(odd, monkeypatch, capsys)
    migrate(odd)
    with connect(odd) as connection:
        fill_pool(connection, new_run(connection, wats=2), 10)
        worker = Session.register(odd, "download")
        assert worker.heartbeat_download(1, None, {"refused": {}, "well": [], "probes": []}).state == "active"
        batch = worker.draw()
        assert batch is not None
        assert batch.n == 10
        seen = console.json("status")
        assert (seen["leased"], seen["queues"]["extract"]["ready"]) == (10, 2)
        assert seen["runs"][0]["created_at"].endswith("+00")
        assert console.json("audit", "--exact")["holds"] is True
        for command in ("jobs", "workers", "plan", "lists", "log", "blocks", "manifest", "sweep"):
            console.json(command)
        findings = console("doctor", "--json").data["findings"]
        assert {"schema", "functions"} <= {f["what"] for f in findings if f["level"] == "good"}
        worker.close()
        for row in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'trap'").fetchall():
            assert scalar(connection, f'SELECT count(*) FROM trap."{row["tablename"]}"') == 0


def test_a_database_that_is_not_utf8_is_one_sentence(
    server: str, admin: Connection, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"shoal_latin_{uuid4().hex[:8]}"
    admin.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0".encode())
    try:
        url = make_conninfo(server, dbname=name)
        with pytest.raises(TrackerError, match=rf"the database {name} has the encoding LATIN1.*ENCODING 'UTF8'"):
            migrate(url)
        found = Console(url, monkeypatch, capsys)("doctor", "--json")
        (finding,) = [f for f in found.data["findings"] if "server_encoding" in f["said"]]
        assert (found.code, finding["level"]) == (1, "bad")
        assert "ENCODING 'UTF8'" in finding["remedy"]
    finally:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
