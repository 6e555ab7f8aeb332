"""The database equals the code: tables as schema.py has them, functions as their files have them."""

import re
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg.conninfo import make_conninfo
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

import migrations
from dataset.pictures import outcomes
from dataset.pictures.outcomes import Outcome
from tests.tracker.filling import new_run, scalar
from tracker.database import embedded_postgres, enums, schema
from tracker.database.database import Connection, connect
from tracker.database.enums import OUTCOMES
from tracker.database.migrate import migrate
from tracker.database.version import function_files, head_revision, require_head
from tracker.errors import DatabaseDown, SchemaBehind, TrackerError


def test_the_migrated_tables_equal_the_schema_in_code(database: str) -> None:
    def ours(_thing: object, name: str | None, kind: str, _reflected: bool, _other: object) -> bool:
        return not (kind == "table" and name is not None and (name == "alembic_version" or "candidate_" in name))

    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database), poolclass=NullPool)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_schemas": True, "include_object": ours, "compare_server_default": False},
        )
        with connection.begin():
            differences = compare_metadata(context, schema.metadata)
    engine.dispose()
    in_schema = [
        d for d in differences if not (isinstance(d, tuple) and getattr(d[1], "schema", "tracker") != "tracker")
    ]
    assert in_schema == []


def test_the_check_constraints_in_the_database_are_those_in_code(admin: Connection) -> None:
    rows = admin.execute(
        "SELECT conname AS name FROM pg_constraint JOIN pg_class ON pg_class.oid = conrelid "
        "WHERE contype = 'c' AND connamespace = 'tracker'::regnamespace AND relname NOT LIKE 'candidate_%%'"
    )
    in_code = {
        str(c.name)
        for t in schema.metadata.tables.values()
        for c in t.constraints
        if type(c).__name__ == "CheckConstraint"
    }
    assert {row["name"] for row in rows} == in_code


def test_the_function_bodies_in_the_database_equal_their_files(admin: Connection) -> None:
    rows = admin.execute(
        "SELECT proname AS name, prosrc AS body, prosecdef AS definer, proconfig AS config, "
        "pg_get_userbyid(proowner) AS owner FROM pg_proc WHERE pronamespace = 'tracker'::regnamespace"
    ).fetchall()
    bodies = {name: re.search(r"\$\$(.*)\$\$", text, re.DOTALL) for name, text in function_files().items()}
    assert {row["name"]: row["body"] for row in rows} == {name: m.group(1) for name, m in bodies.items() if m}
    assert {row["definer"] for row in rows} == {True}
    assert {row["owner"] for row in rows} == {"shoal_owner"}
    assert all(row["config"] == ["search_path=pg_catalog, tracker, pg_temp", "jit=off"] for row in rows)


def test_migrating_again_keeps_the_data(database: str, admin: Connection) -> None:
    new_run(admin, wats=3)
    admin.execute("CREATE FUNCTION tracker.left_over() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    assert migrate(database) == head_revision()
    assert scalar(admin, "SELECT count(*) FROM tracker.job") == 3
    assert scalar(admin, "SELECT to_regproc('tracker.left_over')") is None


def test_the_head_that_is_told_without_alembic_is_alembics() -> None:
    assert head_revision() == ScriptDirectory(str(Path(migrations.__file__).parent)).get_current_head()


@pytest.mark.parametrize("program", ["tracker.main", "workers.main"])
def test_no_command_loads_sqlalchemy_before_it_migrates(program: str) -> None:
    said = f"import sys, {program}; print(sorted({{'alembic', 'sqlalchemy'}} & sys.modules.keys()))"
    assert subprocess.check_output([sys.executable, "-c", said], text=True) == "[]\n"


def test_an_empty_database_is_behind(server: str, admin: Connection) -> None:
    require_head(admin)
    with connect(server) as empty, pytest.raises(SchemaBehind, match="run tracker migrate"):
        require_head(empty)


def test_another_revision_is_behind(admin: Connection) -> None:
    admin.execute("UPDATE tracker.alembic_version SET version_num = '0000'")
    with pytest.raises(SchemaBehind, match="revision 0000"):
        require_head(admin)


def test_a_newer_database_asks_for_a_newer_program_and_not_to_migrate(database: str, admin: Connection) -> None:
    admin.execute("UPDATE tracker.alembic_version SET version_num = '0999'")
    with pytest.raises(SchemaBehind, match=r"older than the database, which is at 0999: upgrade Shoal$"):
        require_head(admin)
    with pytest.raises(SchemaBehind, match=r"older than the database, which is at 0999: upgrade Shoal$"):
        migrate(database)
    assert scalar(admin, "SELECT version_num FROM tracker.alembic_version") == "0999"


def test_the_remedy_of_missing_rights_is_told_where_rights_are_missing(server: str, admin: Connection) -> None:
    name = f"shoal_nobody_{uuid4().hex[:8]}"
    admin.execute(f"CREATE ROLE {name} LOGIN".encode())
    try:
        with pytest.raises(TrackerError, match=r"permission denied.*login that may create roles"):
            migrate(make_conninfo(server, user=name))
    finally:
        admin.execute(f"DROP ROLE {name}".encode())


def test_a_migration_that_fails_for_another_reason_says_nothing_of_rights(database: str, admin: Connection) -> None:
    admin.execute("ALTER TABLE tracker.alembic_version RENAME COLUMN version_num TO version")
    with pytest.raises(TrackerError) as raised:
        migrate(database)
    assert "login" not in str(raised.value)


def test_a_migration_on_a_standby_waits_for_no_rights(database: str, admin: Connection) -> None:
    admin.execute(f"ALTER DATABASE {admin.info.dbname} SET default_transaction_read_only = on".encode())
    with pytest.raises(DatabaseDown, match="standby"):
        migrate(database)


def test_a_database_that_is_down_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DatabaseDown, match="SHOAL_DATABASE_URL"):
        migrate(f"postgresql:///none?host={tmp_path}")


def test_the_tracker_and_the_data_name_the_same_outcomes() -> None:
    assert set(OUTCOMES) == {str(outcome) for outcome in Outcome}
    assert {str(outcome) for outcome in outcomes.NOT_WANTED} == enums.NOT_WANTED


def test_a_login_that_may_create_roles_but_is_not_a_superuser_can_migrate(server: str, admin: Connection) -> None:
    # As on a managed Postgres. Another database of the same server, where the roles exist already.
    name = f"shoal_managed_{uuid4().hex[:8]}"
    admin.execute(f"CREATE ROLE {name} LOGIN CREATEROLE CREATEDB".encode())
    admin.execute(f"GRANT shoal_owner TO {name} WITH ADMIN OPTION".encode())
    managed = make_conninfo(server, user=name, dbname=name)
    try:
        admin.execute(f"CREATE DATABASE {name} OWNER {name}".encode())
        assert migrate(managed) == head_revision()
        with connect(managed) as connection:
            require_head(connection)
            assert new_run(connection, wats=1)
    finally:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        admin.execute(f"DROP OWNED BY {name} CASCADE".encode())
        admin.execute(f"DROP ROLE {name}".encode())


def test_a_function_whose_answer_has_changed_is_replaced(database: str, admin: Connection) -> None:
    admin.execute("DROP FUNCTION tracker.is_idle")
    admin.execute("CREATE FUNCTION tracker.is_idle(p_queue tracker.queue) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    admin.execute("CREATE FUNCTION tracker.setting(p_name text, p_more int) RETURNS int LANGUAGE sql AS 'SELECT 1'")
    admin.execute("ALTER FUNCTION tracker.is_idle OWNER TO shoal_owner")
    migrate(database)
    assert scalar(admin, "SELECT tracker.is_idle('extract')") is True


def test_a_server_whose_creation_was_interrupted_is_created_again(home: Path) -> None:
    (home / "postgres.new" / "global").mkdir(parents=True)
    (home / "postgres").mkdir()
    url = embedded_postgres.start(home)
    try:
        with connect(url) as connection:
            assert scalar(connection, "SHOW listen_addresses") == ""
    finally:
        assert embedded_postgres.stop(home)


def test_a_folder_of_somebody_elses_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "notes.txt").write_text("mine")
    with pytest.raises(DatabaseDown, match="move it away"):
        embedded_postgres.start(tmp_path)
    assert (tmp_path / "postgres" / "notes.txt").read_text() == "mine"
