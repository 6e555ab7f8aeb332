"""Each fault that the doctor knows, made on purpose: it is found, with its remedy, and the remedy repairs it."""

import os
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.tracker.filling import fill_pool, new_run, scalar
from tests.tracker.talking import Console
from tracker.admin import doctor, server_health
from tracker.admin.findings import Finding, Level
from tracker.admin.server_health import NEEDS, horizon
from tracker.database.database import Connection, connect
from tracker.database.enums import LOGINS
from tracker.database.migrate import migrate

# The tests' server does without them, since its data need not outlive a power cut; and a database's rights are not
# copied from its template.
OF_THE_TESTS = ("fsync", "full_page_writes", "synchronous_commit", "the database")


@pytest.fixture
def console(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(database, monkeypatch, capsys)


def faults(connection: Connection) -> list[Finding]:
    """What is not good, but for what all tests share."""
    return [
        finding
        for finding in doctor.examine(connection)
        if finding.level is not Level.GOOD and not any(known in finding.said for known in OF_THE_TESTS)
    ]


def the_fault(connection: Connection) -> Finding:
    (found,) = faults(connection)
    return found


def test_a_migrated_database_is_healthy(admin: Connection) -> None:
    fill_pool(admin, new_run(admin), 10)
    assert faults(admin) == []
    good = {finding.what for finding in doctor.examine(admin) if finding.level is Level.GOOD}
    assert {"version", "schema", "functions", "vacuum", "horizon", "clock", "ledger"} <= good


def test_migrating_gives_the_rights_on_the_database_back(database: str, admin: Connection) -> None:
    # A copy of a database has the usual rights, not those of its template.
    assert "shoal_filter has TEMPORARY on the database, which is not its own" in {f.said for f in doctor.examine(admin)}
    migrate(database)
    assert "grants" in {finding.what for finding in doctor.examine(admin) if finding.level is Level.GOOD}


def test_what_is_bad_exits_with_1_and_says_the_remedy(admin: Connection, console: Console) -> None:
    admin.execute("UPDATE tracker.alembic_version SET version_num = '0000'")
    said = console("doctor", "--json")
    assert said.code == 1
    assert said.data["healthy"] is False
    (found,) = [finding for finding in said.data["findings"] if finding["what"] == "schema"]
    assert (found["level"], found["remedy"]) == ("bad", "run tracker migrate")
    assert "revision 0000" in found["said"]
    assert "run tracker migrate" in console("doctor").out


def test_a_warning_alone_exits_with_0(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda _: [Finding("clock", Level.WARNING, "off", "run NTP")])
    assert console.json("doctor")["healthy"] is True


def test_an_empty_database_is_behind_and_the_server_is_examined_all_the_same(server: str) -> None:
    name = f"shoal_test_{uuid4().hex[:8]}"
    with connect(server) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        with connect(make_conninfo(server, dbname=name)) as empty:
            found = {finding.what: finding.level for finding in doctor.examine(empty)}
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
    assert (found["schema"], found["version"]) == (Level.BAD, Level.GOOD)
    assert "functions" not in found


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("DROP FUNCTION tracker.leave", "function leave is missing"),
        (
            "CREATE FUNCTION tracker.left_over() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
            "function left_over differs from this version's",
        ),
        ("ALTER FUNCTION tracker.leave SECURITY INVOKER", "function leave does not run as shoal_owner"),
        ("ALTER FUNCTION tracker.leave RESET search_path", "function leave does not run as shoal_owner"),
    ],
)
def test_a_function_that_differs_from_its_file_is_found_and_migrate_repairs_it(
    database: str, admin: Connection, harm: str, said: str
) -> None:
    admin.execute(harm.encode())
    (found,) = [finding for finding in faults(admin) if finding.what == "functions"]
    assert found.said.startswith(said)
    assert (found.level, found.remedy) == (Level.BAD, "run tracker migrate")
    migrate(database)
    assert faults(admin) == []


def test_a_function_body_that_was_changed_by_hand_is_found(database: str, admin: Connection) -> None:
    body = "BEGIN RETURN 0; END"
    admin.execute(
        f"CREATE OR REPLACE FUNCTION tracker.leave(p_worker uuid) RETURNS int LANGUAGE plpgsql SECURITY DEFINER "
        f"SET search_path = pg_catalog, tracker, pg_temp SET jit = off AS '{body}'".encode()
    )
    assert the_fault(admin).said == "the body of function leave differs from its file"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("GRANT SELECT ON tracker.job TO shoal_filter", "shoal_filter has SELECT on job"),
        ("GRANT EXECUTE ON FUNCTION tracker.draw TO shoal_filter", "shoal_filter has EXECUTE on draw"),
        ("GRANT INSERT ON tracker.ledger TO shoal_ingest", "shoal_ingest has INSERT on ledger"),
    ],
)
def test_a_right_too_many_is_found_and_its_remedy_takes_it(admin: Connection, harm: str, said: str) -> None:
    admin.execute(harm.encode())
    found = the_fault(admin)
    assert (found.what, found.level) == ("grants", Level.BAD)
    assert found.said.startswith(said)
    admin.execute(found.remedy.encode())
    assert faults(admin) == []


def test_a_function_that_anyone_may_call_is_found_for_each_login(admin: Connection) -> None:
    admin.execute("GRANT EXECUTE ON FUNCTION tracker.post TO PUBLIC")
    assert [finding.said.split()[0] for finding in faults(admin)] == sorted(LOGINS)
    for finding in faults(admin):
        admin.execute(finding.remedy.encode())
    assert faults(admin) == []


def test_a_right_that_is_missing_is_found_and_migrate_gives_it(database: str, admin: Connection) -> None:
    admin.execute("REVOKE EXECUTE ON FUNCTION tracker.claim FROM shoal_filter")
    found = the_fault(admin)
    assert (found.said, found.remedy) == ("shoal_filter may not EXECUTE claim", "run tracker migrate")
    migrate(database)
    assert faults(admin) == []


def test_the_rights_that_are_meant_are_read_from_the_grants() -> None:
    granted = doctor.granted()
    assert {("shoal_download", "draw"), ("shoal_ingest", "complete_ingest")} <= granted
    assert {login for login, _ in granted} == set(LOGINS)


def test_a_table_that_autovacuum_may_not_touch_is_found(admin: Connection) -> None:
    fill_pool(admin, new_run(admin), 10)
    relation = scalar(admin, "SELECT relation FROM tracker.leaf WHERE subset = 'en'")
    admin.execute(f"ALTER TABLE tracker.{relation} SET (autovacuum_enabled = false)".encode())
    found = the_fault(admin)
    assert (found.what, found.level) == ("vacuum", Level.BAD)
    admin.execute(found.remedy.encode())
    assert faults(admin) == []


@pytest.fixture
def forgotten(database: str) -> Iterator[Connection]:
    """A transaction that somebody forgot to end."""
    with connect(database) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM tracker.job")
        yield connection


def test_a_transaction_that_was_forgotten_is_found_and_the_remedy_ends_it(
    admin: Connection, forgotten: Connection
) -> None:
    (found,) = horizon(admin, long_seconds=0)
    assert (found.what, found.level) == ("horizon", Level.WARNING)
    assert f"process {forgotten.info.backend_pid}" in found.said
    assert "idle in transaction" in found.said
    assert found.remedy == f"SELECT pg_terminate_backend({forgotten.info.backend_pid})"
    assert [finding.level for finding in horizon(admin)] == [Level.GOOD]


def test_a_login_that_cannot_see_transactions_is_told_so(
    login: Callable[[str], psycopg.Connection[dict[str, object]]], forgotten: Connection
) -> None:
    with login("filter") as connection:
        (found,) = horizon(connection, long_seconds=0)
    assert found.level is Level.WARNING
    assert "pg_read_all_stats" in found.remedy


def test_a_transaction_that_is_open_for_an_hour_is_bad(
    admin: Connection, forgotten: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_health, "ENDLESS_SECONDS", 0)
    assert [finding.level for finding in horizon(admin, long_seconds=0)] == [Level.BAD]


def test_a_ledger_that_is_not_folded_is_a_warning(admin: Connection) -> None:
    fill_pool(admin, new_run(admin), 10)
    admin.execute("UPDATE tracker.ledger SET posted_at = now() - interval '1 hour'")
    assert faults(admin) == []  # so few are added up at once
    admin.execute("SELECT setval(pg_get_serial_sequence('tracker.ledger', 'entry_id'), 200000)")
    admin.execute("SELECT tracker.post(1, 1, 'jobs', 'extract', NULL, 1)")
    found = the_fault(admin)
    assert (found.level, found.remedy) == (Level.WARNING, "keep one tracker serve running")


def test_a_clock_that_is_off_is_a_warning(admin: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = time.time
    monkeypatch.setattr(time, "time", lambda: ours() + 60)
    found = the_fault(admin)
    assert (found.what, found.level) == ("clock", Level.WARNING)
    assert "60 s from this machine's" in found.said


@pytest.mark.parametrize(
    ("name", "setting", "level"),
    [
        ("fsync", "off", Level.BAD),
        ("synchronous_commit", "off", Level.BAD),
        ("autovacuum", "off", Level.BAD),
        ("shared_buffers", "16384", Level.WARNING),  # the default, 128 MB
        ("max_wal_size", "1024", Level.WARNING),  # the default, 1 GB
        ("autovacuum_naptime", "60", Level.WARNING),  # the default
        ("password_encryption", "md5", Level.WARNING),
    ],
)
def test_a_setting_that_harms_is_known(name: str, setting: str, level: Level) -> None:
    (need,) = [need for need in NEEDS if need.name == name]
    assert (need.is_met(setting), need.level) == (False, level)
    assert need.remedy


def test_every_setting_that_is_asked_for_is_one_of_postgress(admin: Connection) -> None:
    if os.environ.get("SHOAL_TEST_DATABASE_URL") is None:
        row = admin.execute("SELECT count(*) AS n FROM pg_settings WHERE name = ANY (%s)", ([n.name for n in NEEDS],))
        assert row.fetchall() == [{"n": len(NEEDS)}]
    said = [finding.said for finding in doctor.examine(admin) if finding.what == "setting"]
    assert len(said) == len(NEEDS)
