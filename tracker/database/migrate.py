"""`tracker migrate`: roles, then Alembic to head, then every function file and the grants, in one transaction.

Functions have no migrations: each is replaced by its file, and a function without a file is dropped, so the catalog
always equals the files. A function with an unchanged signature keeps its identity, so workers that call it notice
nothing.
"""

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util.exc import CommandError
from psycopg.errors import InsufficientPrivilege, InvalidFunctionDefinition
from sqlalchemy import Connection as AlchemyConnection
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

import migrations
from tracker import strict_json
from tracker.database.database import Connection, as_ours, connect, connect_for_alembic, query
from tracker.database.enums import QUEUE_TABLE
from tracker.database.version import function_files, require_not_newer, script
from tracker.errors import DatabaseDown, TrackerError

FUNCTIONS = query("functions").decode()
# If two migrations run at once, the second one waits. The number is arbitrary.
LOCK = "SELECT pg_advisory_xact_lock(7264931)"


def migrate(url: str) -> str:
    """Bring the database to this version's schema and return its revision.

    Raises:
        DatabaseDown: no server answers there.
        SchemaBehind: the database is newer than this version.
        TrackerError: the database is not UTF-8, or the login may not create roles or schemas.
    """
    with connect(url) as plain:
        _require_utf8(plain)
        require_not_newer(plain)
    engine = create_engine("postgresql+psycopg://", creator=lambda: connect_for_alembic(url), poolclass=NullPool)
    try:
        with engine.begin() as connection:
            _execute(connection, LOCK)
            _execute(connection, script("roles.sql"))
            _execute(connection, "SET LOCAL ROLE shoal_owner")
            command.upgrade(_configuration(connection), "head")
            _replace_functions(connection)
            _fill_queue_folders(connection)
            _execute(connection, script("grants.sql"))
            known = MigrationContext.configure(connection, opts={"version_table_schema": "tracker"})
            return str(known.get_current_revision())
    except (psycopg.Error, DBAPIError, CommandError) as error:
        raise _failed(error) from error
    finally:
        engine.dispose()


def _require_utf8(connection: Connection) -> None:
    row = connection.execute(
        "SELECT current_database() AS name, current_setting('server_encoding') AS encoding"
    ).fetchone()
    assert row is not None
    if row["encoding"] != "UTF8":
        raise TrackerError(
            f"the database {row['name']} has the encoding {row['encoding']}, which cannot store every caption: create "
            "one with CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0, and set SHOAL_DATABASE_URL to it"
        )


def _failed(error: Exception) -> TrackerError:
    """Return the exception for a failed migration; only missing rights have a remedy here."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, psycopg.Error):
        known = as_ours(cause)
        if isinstance(known, DatabaseDown):
            return known
    said = " ".join(str(cause).split())
    remedy = "; use a login that may create roles and schemas" if isinstance(cause, InsufficientPrivilege) else ""
    return TrackerError(f"the migration failed and changed nothing: {said}{remedy}")


def _replace_functions(connection: AlchemyConnection) -> None:
    """Create the functions of the files; drop functions without a file, or with an old signature."""
    before = {int(oid): (name, signature) for oid, name, signature in connection.exec_driver_sql(FUNCTIONS)}
    # Function bodies call each other, so they are not checked here; the tests run each of them.
    _execute(connection, "SET LOCAL check_function_bodies = off")
    files = function_files()
    for name, text in sorted(files.items()):
        replacing = text.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)
        try:
            with connection.begin_nested():
                _execute(connection, replacing)
        except InvalidFunctionDefinition:  # the return type has changed
            for oid in [oid for oid, (known, _) in before.items() if known == name]:
                _execute(connection, f"DROP FUNCTION {before.pop(oid)[1]}")
            _execute(connection, text)
    now = [(int(oid), name) for oid, name, _ in connection.exec_driver_sql(FUNCTIONS)]
    made = {name for oid, name in now if oid not in before}
    for name, signature in before.values():
        if name not in files or name in made:
            _execute(connection, f"DROP FUNCTION {signature}")


def _execute(connection: AlchemyConnection, script: str) -> None:
    """Run a script without parameters, in which % is not special."""
    cursor = connection.connection.cursor()
    cursor.execute(script)
    cursor.close()


def _configuration(connection: AlchemyConnection) -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(migrations.__file__).parent).replace("%", "%%"))
    configuration.attributes["connection"] = connection
    return configuration


def _fill_queue_folders(connection: AlchemyConnection) -> None:
    told = [{"queue": of.name, "folder": of.folder, "payload_keys": of.payload_keys} for of in QUEUE_TABLE]
    cursor = connection.connection.cursor()
    cursor.execute(query("fill_queue_folders"), {"queues": strict_json.dumps(told)})
    cursor.close()
