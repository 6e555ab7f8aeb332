"""Connections to Postgres, and the only place where psycopg's errors become the tracker's.

No LISTEN, no prepared statements, and no session state but SESSION: every connection may go through pgbouncer in
transaction mode. Statements name the schema of every object, so `search_path` does not matter.
"""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from tracker.database import embedded_postgres
from tracker.errors import DatabaseDown, LeaseLost, RecipeRefused, Refused, SchemaBehind, TrackerError
from tracker.settings import Settings

# A NAT that forgets a connection would block a heartbeat for hours; after 30 s without an answer it counts as broken.
KEEPALIVE = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}

Row: TypeAlias = dict[str, Any]
Connection: TypeAlias = psycopg.Connection[Row]

CONNECT_TIMEOUT_SECONDS = 10
# These settings decide how values are written and read; a role, a database or the environment may have set others. The
# server reports each of them, so pgbouncer restores them when it changes the server connection.
SESSION = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "standard_conforming_strings": "on",
}
# Errors that are caused by the state of the database and not by the statement, although psycopg does not raise them as
# an OperationalError: an old primary or a standby after a failover (25006), a transaction that the server ended because
# of its age (25P03, 25P04), a pooler's answer when its server is down (XX000).
DOWN_SQLSTATES = frozenset({"25006", "25P03", "25P04", "XX000"})
READ_ONLY = "25006"
OUR_SQLSTATES: dict[str, type[TrackerError]] = {"SH001": LeaseLost, "SH002": RecipeRefused, "SH003": Refused}


def database_url(settings: Settings) -> str:
    """Return SHOAL_DATABASE_URL, or the URL of the embedded server, which is started if needed."""
    return settings.database_url or embedded_postgres.start(settings.home)


def connect(url: str) -> Connection:
    """Open a connection in autocommit mode with the session of SESSION; rows are dictionaries.

    Raises:
        DatabaseDown: no server answers there, or it refuses the login.
    """
    connection: Connection = _open(url, autocommit=True, row_factory=dict_row)
    return connection


def connect_for_alembic(url: str) -> psycopg.Connection[Any]:
    """Open a connection as SQLAlchemy needs it (tuples, transactions), with the session of SESSION.

    Raises:
        DatabaseDown: no server answers there, or it refuses the login.
    """
    connection = _open(url, autocommit=True)
    connection.autocommit = False
    return connection


def _open(url: str, **arguments: Any) -> psycopg.Connection[Any]:
    try:
        connection = psycopg.connect(
            make_conninfo(url, **KEEPALIVE, client_encoding=SESSION["client_encoding"]),
            prepare_threshold=None,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name="shoal",
            **arguments,
        )
        try:
            _fix_session(connection)
        except BaseException:
            connection.close()
            raise
    except psycopg.Error as error:
        said = " ".join(str(error).split())
        raise DatabaseDown(f"cannot reach the database: {said}; check SHOAL_DATABASE_URL and that it runs") from error
    return connection


def _fix_session(connection: psycopg.Connection[Any]) -> None:
    """Set the values of SESSION that the server reports differently; usually none, or the time zone."""
    reported = connection.info.parameter_status
    wrong = [(name, value) for name, value in SESSION.items() if reported(name) != value]
    if wrong:
        calls = ", ".join(["pg_catalog.set_config(%s, %s, false)"] * len(wrong))
        connection.execute(f"SELECT {calls}".encode(), [text for pair in wrong for text in pair])


@contextmanager
def answered_within(connection: Connection, seconds: float) -> Iterator[None]:
    """Break the connection if the block takes longer than this: its reads then raise, as if the server had closed it.

    TCP's own limits detect a peer that does not acknowledge packets, but not a peer that acknowledges and sends
    nothing, such as a pooler that hangs; and a request to cancel does not get past such a pooler.
    """
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        timer = threading.Timer(seconds, _shut, [line])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # otherwise the timer might shut down a descriptor that has been reused


@contextmanager
def translated() -> Iterator[None]:
    """Turn psycopg's exceptions into the tracker's own."""
    try:
        yield
    except psycopg.Error as error:
        raise as_ours(error) from error
    except UnicodeEncodeError as error:  # an argument or an environment variable in another encoding
        raise TrackerError(f"the text {error.object!r} is not UTF-8: write it in UTF-8") from error


def as_ours(error: psycopg.Error) -> TrackerError:
    """Return the tracker's exception for an exception of psycopg."""
    said = _said(error)
    match error:
        case pg.UndefinedTable() | pg.UndefinedFunction() | pg.InvalidSchemaName() | pg.UndefinedColumn():
            return SchemaBehind(
                f"the database's schema is not this version's ({said}): run tracker migrate, "
                f"or upgrade Shoal if the database is newer"
            )
        case pg.InsufficientPrivilege():
            return Refused(f"{said}; use the login of the right class")
        case _ if error.sqlstate == READ_ONLY:
            return DatabaseDown(
                f"the database is read-only ({said}): it is a standby; check that SHOAL_DATABASE_URL leads to the "
                "primary, and try again"
            )
        case _ if _is_down(error):
            return DatabaseDown(
                f"the connection to the database broke: {said}; check that the database runs, and try again"
            )
    kind = OUR_SQLSTATES.get(error.sqlstate or "", TrackerError)
    hint = error.diag.message_hint
    return kind(f"{said}; {hint}" if hint else said)


def _is_down(error: psycopg.Error) -> bool:
    """Return whether the same statement may succeed on a new connection."""
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or error.sqlstate in DOWN_SQLSTATES:
        return True
    # raised by libpq, not by the server: the connection was lost while waiting for a result
    return type(error) is psycopg.DatabaseError and error.sqlstate is None


def _shut(line: socket.socket) -> None:
    with suppress(OSError):  # the connection is broken already
        line.shutdown(socket.SHUT_RDWR)


@cache
def query(name: str) -> bytes:
    """Return the text of tracker/queries/<name>.sql."""
    return files("tracker").joinpath("queries", f"{name}.sql").read_bytes()


def _said(error: psycopg.Error) -> str:
    return " ".join((error.diag.message_primary or str(error) or type(error).__name__).split())
