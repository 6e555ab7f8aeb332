"""Connections to Postgres, and the one place where its errors become ours.

No session state, no LISTEN, no prepared statements: every connection may go through pgbouncer in transaction mode.
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

# A NAT that forgets a connection would hold a beat for hours: after 30 s without an answer it counts as broken.
KEEPALIVE = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}

Row: TypeAlias = dict[str, Any]
Connection: TypeAlias = psycopg.Connection[Row]

CONNECT_TIMEOUT_SECONDS = 10
OUR_SQLSTATES: dict[str, type[TrackerError]] = {"SH001": LeaseLost, "SH002": RecipeRefused, "SH003": Refused}


def database_url(settings: Settings) -> str:
    """The URL that is set, or that of the embedded server, which is started if it does not run."""
    return settings.database_url or embedded_postgres.start(settings.home)


def connect(url: str) -> Connection:
    """Open a connection in autocommit mode; rows are dictionaries.

    Raises:
        DatabaseDown: nothing answers there, or it refuses us.
    """
    try:
        return psycopg.connect(
            make_conninfo(url, **KEEPALIVE),
            autocommit=True,
            row_factory=dict_row,
            prepare_threshold=None,
            connect_timeout=CONNECT_TIMEOUT_SECONDS,
            application_name="shoal",
        )
    except psycopg.Error as error:
        said = " ".join(str(error).split())
        raise DatabaseDown(f"cannot reach the database: {said}; check SHOAL_DATABASE_URL and that it runs") from error


@contextmanager
def answered_within(connection: Connection, seconds: float) -> Iterator[None]:
    """Break a connection on which the block takes longer: its reads then raise, as if the server had closed it.

    TCP's own limits see a peer that does not acknowledge, and not one that is there and says nothing (a pooler that
    hangs); and a server that is asked to cancel is no help behind one.
    """
    with socket.socket(fileno=os.dup(connection.fileno())) as line:
        timer = threading.Timer(seconds, _shut, [line])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()  # or it might shut a descriptor that is another's by then


@contextmanager
def translated() -> Iterator[None]:
    """Turn what Postgres raises into the tracker's own exceptions."""
    try:
        yield
    except (pg.UndefinedTable, pg.UndefinedFunction, pg.InvalidSchemaName, pg.UndefinedColumn) as error:
        raise SchemaBehind(
            f"the database's schema is not this version's ({_said(error)}): run tracker migrate"
        ) from error
    except pg.InsufficientPrivilege as error:
        raise Refused(f"{_said(error)}; use the login of the right class") from error
    except (psycopg.OperationalError, psycopg.InterfaceError, pg.IdleInTransactionSessionTimeout) as error:
        raise DatabaseDown(f"the database broke off: {_said(error)}; check that it runs, and try again") from error
    except psycopg.Error as error:
        kind = OUR_SQLSTATES.get(error.sqlstate or "", TrackerError)
        hint = error.diag.message_hint
        raise kind(f"{_said(error)}; {hint}" if hint else _said(error)) from error


def _shut(line: socket.socket) -> None:
    with suppress(OSError):  # it has broken by itself
        line.shutdown(socket.SHUT_RDWR)


@cache
def query(name: str) -> bytes:
    """The text of tracker/queries/<name>.sql."""
    return files("tracker").joinpath("queries", f"{name}.sql").read_bytes()


def _said(error: psycopg.Error) -> str:
    return " ".join((error.diag.message_primary or str(error) or type(error).__name__).split())
