"""A worker's login can execute its class's functions, and nothing else."""

from collections.abc import Callable
from uuid import uuid4

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from tests.tracker.filling import new_run, scalar
from tracker.admin.enroll import enroll, login_url, revoke
from tracker.database.database import Connection

Login = Callable[[str], psycopg.Connection[dict[str, object]]]

SHARED = {"register", "claim", "heartbeat", "leave", "release", "fail", "is_idle", "settle_recipe", "hash_lists"}
SHARED |= {"waits_for"}
OWN = {
    "extract": {"complete_extract"},
    "ingest": {
        "lock_lease",
        "complete_ingest",
        "complete_list",
        "open_leaves",
        "bloom_hold",
        "bloom_release",
        "bloom_snapshot",
    },
    "download": {"draw", "complete_download", "heartbeat_download", "blocks"},
    "filter": {"complete_filter"},
    "embed": {"settle_model", "complete_embed"},
    "index": {"complete_index"},
    "dedup": {"complete_dedup"},
    "tag": {"complete_tag"},
}
KINDS = sorted(OWN)


@pytest.mark.parametrize("kind", KINDS)
def test_a_login_may_execute_its_classs_functions_only(admin: Connection, kind: str) -> None:
    rows = admin.execute(
        "SELECT proname AS name FROM pg_proc WHERE pronamespace = 'tracker'::regnamespace "
        "AND has_function_privilege(%s, oid, 'EXECUTE')",
        (f"shoal_{kind}",),
    )
    assert {row["name"] for row in rows} == SHARED | OWN[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_login_may_touch_no_table(admin: Connection, kind: str) -> None:
    new_run(admin)
    rows = admin.execute(
        "SELECT relname AS name, privilege FROM pg_class, "
        "unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) AS privilege "
        "WHERE relnamespace = 'tracker'::regnamespace AND relkind IN ('r', 'p', 'v') "
        "AND has_table_privilege(%s, pg_class.oid, privilege)",
        (f"shoal_{kind}",),
    ).fetchall()
    leaves = {row["relation"] for row in admin.execute("SELECT relation FROM tracker.leaf")}
    allowed = {(leaf, "INSERT") for leaf in leaves} if kind == "ingest" else set()
    assert {(row["name"], row["privilege"]) for row in rows} == allowed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM tracker.job",
        "UPDATE tracker.setting SET value = '0'",
        "CREATE TABLE public.mine (i int)",
        "CREATE SCHEMA mine",
        "SELECT lo_create(0)",
        "SELECT pg_advisory_lock(1)",
        "SELECT lo_from_bytea(0, 'x')",
        "SELECT tracker.post(1, 1, 'in', NULL, 'en', 1000)",
        "SELECT tracker.finish('extract', 1, gen_random_uuid(), '{}', 1, 1)",
        "SET ROLE shoal_owner",
    ],
)
def test_a_login_is_refused_everything_else(login: Login, kind: str, statement: str) -> None:
    with login(kind) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement.encode())


@pytest.mark.parametrize("kind", KINDS)
def test_a_login_may_make_no_temporary_table(admin: Connection, template: str, kind: str) -> None:
    # A right on the database itself, which a copy of the template does not inherit: so the template is asked.
    asked = "SELECT has_database_privilege(%s, %s, 'TEMPORARY') OR has_database_privilege(%s, %s, 'CREATE') AS may"
    login = f"shoal_{kind}"
    assert scalar(admin, asked, login, template, login, template) is False


def test_a_login_cannot_register_for_another_class(admin: Connection, login: Login) -> None:
    token = enroll(admin, "vm-1", "extract")
    with login("download") as connection, pytest.raises(psycopg.Error, match="may not work on queue extract"):
        connection.execute("SELECT * FROM tracker.register('extract', 'h', 1, '1', 3, %s)", (token,))


def test_the_url_of_a_server_on_a_socket_names_its_folder_and_port(admin: Connection) -> None:
    told = conninfo_to_dict(login_url(admin, "extract"))
    assert (told["user"], told["dbname"]) == ("shoal_extract", admin.info.dbname)
    assert (told["host"], told["port"]) == (admin.info.host, str(admin.info.port))


@pytest.mark.parametrize(
    ("admins", "told"),
    [
        (
            "postgresql://admin@db1.example,db2.example:6000/shoal?target_session_attrs=read-write",
            "db1.example:5432,db2.example:6000/{name}?target_session_attrs=read-write",
        ),
        ("postgresql://admin@[2001:db8::1]:5433/shoal", "[2001:db8::1]:5433/{name}"),
        ("host=/run/a,/run/b port=5432", "/{name}?host=%2Frun%2Fa%2C%2Frun%2Fb&port=5432%2C5432"),
    ],
)
def test_a_machines_url_names_every_server_that_the_admins_does(admin: Connection, admins: str, told: str) -> None:
    url = login_url(admin, "extract", admins)
    assert url == f"postgresql://shoal_extract:PASSWORD@{told.format(name=admin.info.dbname)}"
    assert conninfo_to_dict(url)["user"] == "shoal_extract"


@pytest.mark.parametrize("token", [None, "guessed"])
def test_a_login_without_an_enrolled_machines_token_is_refused(login: Login, token: str | None) -> None:
    with login("download") as connection, pytest.raises(psycopg.Error, match="not enrolled"):
        connection.execute("SELECT * FROM tracker.register('download', 'h', 1, '1', 3, %s)", (token,))


def test_a_token_of_one_class_does_not_open_another(admin: Connection, login: Login) -> None:
    token = enroll(admin, "vm-1", "download")
    with login("filter") as connection, pytest.raises(psycopg.Error, match="not enrolled"):
        connection.execute("SELECT * FROM tracker.register('filter', 'h', 1, '1', 3, %s)", (token,))


def test_an_enrolled_machine_works_until_it_is_revoked(admin: Connection, login: Login) -> None:
    new_run(admin, wats=1)
    token = enroll(admin, "vm-1", "extract")
    with login("extract") as connection:
        row = connection.execute(
            "SELECT worker_id FROM tracker.register('extract', 'h', 1, '1', 3, %s)", (token,)
        ).fetchone()
        assert row is not None
        claim = "SELECT * FROM tracker.claim(%s, %s, 'extract')"
        assert len(connection.execute(claim, (row["worker_id"], uuid4())).fetchall()) == 1
        assert revoke(admin, "vm-1") == 1
        with pytest.raises(psycopg.Error, match="revoked"):
            connection.execute("SELECT tracker.heartbeat(%s, 1)", (row["worker_id"],))
        held = admin.execute("SELECT job_id, lease FROM tracker.lease").fetchone()
        assert held is not None
        done = '{"images": 0, "candidates": 0, "slots": [{"rows": 0, "bytes": 0}]}'
        with pytest.raises(psycopg.Error, match=r"revoked|no longer held"):
            connection.execute("SELECT tracker.complete_extract(%s, %s, %s)", (held["job_id"], held["lease"], done))
        with pytest.raises(psycopg.Error, match="not enrolled"):
            connection.execute("SELECT tracker.register('extract', 'h', 1, '1', 3, %s)", (token,))
