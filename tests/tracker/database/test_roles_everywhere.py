"""Every statement that a stolen login could try, on every table and function, directly and through pgbouncer."""

from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.types.json import Jsonb

from tests.bouncer import Bouncer
from tests.server_home import server_home
from tests.tracker.database.test_roles import KINDS, OWN, SHARED, Login
from tests.tracker.filling import fill_pool, new_run, scalar
from tracker.accounts.audit import audit
from tracker.admin.enroll import enroll
from tracker.database.database import Connection, connect


@pytest.fixture(params=["directly", "through pgbouncer"])
def way(request: pytest.FixtureRequest, database: str) -> Iterator[Login]:
    """Connect as a class's login."""
    if request.param == "directly":
        yield lambda kind: connect(make_conninfo(database, user=f"shoal_{kind}"))
        return
    if Bouncer.program() is None:
        pytest.skip("pgbouncer is not installed")
    users = [f"shoal_{kind}" for kind in KINDS]
    with server_home() as home, closing(Bouncer(database, home / "bouncer", users=users)) as bouncer:
        yield lambda kind: connect(bouncer.url(f"shoal_{kind}"))


@pytest.mark.parametrize("kind", KINDS)
def test_no_table_is_read_or_written_and_no_foreign_function_called(admin: Connection, way: Login, kind: str) -> None:
    fill_pool(admin, new_run(admin, wats=1), 5)
    relations = admin.execute(
        "SELECT relname AS name FROM pg_class "
        "WHERE relnamespace = 'tracker'::regnamespace AND relkind IN ('r', 'p', 'v')"
    ).fetchall()
    leaves = {row["relation"] for row in admin.execute("SELECT relation FROM tracker.leaf")}
    functions = admin.execute(
        "SELECT proname AS name, format('SELECT %s.%I(%s)', 'tracker', proname, "
        "(SELECT string_agg('NULL::' || format_type(type, NULL), ', ') FROM unnest(proargtypes) AS type)) AS call "
        "FROM pg_proc WHERE pronamespace = 'tracker'::regnamespace"
    ).fetchall()
    tried = []
    for row in relations:
        name = row["name"]
        tried += [f"SELECT * FROM tracker.{name}", f"DELETE FROM tracker.{name}", f"TRUNCATE tracker.{name}"]
        tried += [f"DO $$ BEGIN LOCK TABLE tracker.{name}; END $$", f"COPY tracker.{name} TO STDOUT"]
        tried += [f"DROP TABLE tracker.{name}", f"ALTER TABLE tracker.{name} ADD COLUMN mine int"]
        if not (kind == "ingest" and name in leaves):
            tried.append(f"INSERT INTO tracker.{name} DEFAULT VALUES")
    tried += [row["call"] for row in functions if row["name"] not in SHARED | OWN[kind]]
    tried += [
        "CREATE FUNCTION tracker.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE TABLE tracker.mine (i int)",
    ]
    tried += [
        "COPY (SELECT 1) TO '/tmp/mine'",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
    ]
    tried += ["SET SESSION AUTHORIZATION postgres", "ALTER ROLE shoal_owner LOGIN", "SELECT lo_import('/etc/passwd')"]
    let_through = []
    with way(kind) as connection:
        for statement in tried:
            try:
                connection.execute(statement.encode())
            except psycopg.errors.InsufficientPrivilege:
                continue
            except psycopg.Error as error:
                let_through.append(f"{statement}: {type(error).__name__}")
            else:
                let_through.append(statement)
    # What nobody could do, to a view, is refused for that.
    impossible = ("WrongObjectType", "ObjectNotInPrerequisiteState")
    assert [told for told in let_through if not told.endswith(impossible)] == []
    assert len(tried) > 150


def test_a_login_cannot_end_what_another_class_holds(admin: Connection, way: Login) -> None:
    fill_pool(admin, new_run(admin, wats=1), 10)
    held = {}
    for kind, ask in (("extract", "claim(%s, %s, 'extract')"), ("download", "draw(%s, %s)")):
        token = enroll(admin, f"vm-{kind}", kind)
        with way(kind) as connection:
            row = connection.execute(
                "SELECT worker_id FROM tracker.register(%s, 'h', 1, '1', 3, %s)", (kind, token)
            ).fetchone()
            assert row is not None
            held[kind] = (
                row["worker_id"],
                connection.execute(
                    f"SELECT job_id, lease FROM tracker.{ask}".encode(), (row["worker_id"], uuid4())
                ).fetchone(),
            )
    for thief, owner in (("download", "extract"), ("extract", "download")):
        worker, job = held[owner]
        assert job is not None
        with way(thief) as connection:
            for verb in ("release(%s, %s)", "fail(%s, %s, 'mine')"):
                with pytest.raises(psycopg.Error, match="may not work on queue"):
                    connection.execute(f"SELECT tracker.{verb}".encode(), (job["job_id"], job["lease"]))
            for verb in ("heartbeat(%s, 1)", "leave(%s)"):
                with pytest.raises(psycopg.Error, match="may not work on queue"):
                    connection.execute(f"SELECT tracker.{verb}".encode(), (worker,))
    assert scalar(admin, "SELECT count(*) FROM tracker.job WHERE state = 'leased'") == 2


def test_a_forged_path_or_count_has_no_effect(admin: Connection, way: Login) -> None:
    fill_pool(admin, new_run(admin), 10)
    token = enroll(admin, "vm", "download")
    with way("download") as connection:
        row = connection.execute(
            "SELECT worker_id FROM tracker.register('download', 'h', 1, '1', 3, %s)", (token,)
        ).fetchone()
        assert row is not None
        batch = connection.execute("SELECT * FROM tracker.draw(%s, %s)", (row["worker_id"], uuid4())).fetchone()
        assert batch is not None
        complete = "SELECT tracker.complete_download(%s, %s, %s)"
        forged = {"finished": {"success": 11}, "again": [], "returned": [], "samples": 11, "bytes": 1}
        with pytest.raises(psycopg.Error, match="account for its 10 links"):
            connection.execute(complete, (batch["job_id"], batch["lease"], Jsonb(forged)))
        told = {"finished": {"success": 10}, "again": [], "returned": [], "samples": 10, "bytes": 1}
        paths = {"path": "../../etc/passwd", "shard": "other/shards/1", "output": "/x"}
        connection.execute(complete, (batch["job_id"], batch["lease"], Jsonb(told | paths)))
    assert scalar(admin, "SELECT payload ->> 'shard' FROM tracker.job WHERE queue = 'filter'") == batch["output"]
    assert scalar(admin, "SELECT path FROM tracker.manifest WHERE kind = 'shard'") == batch["output"]
    assert audit(admin).holds
