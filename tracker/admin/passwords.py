"""Passwords of the class logins: set by the admin, kept by Postgres as SCRAM-SHA-256 verifiers.

Invariant: a password is never sent to the server. libpq computes the verifier here, as for psql's \\password, so the
statement, which a server's log or pg_stat_activity may show, contains only what pg_authid contains anyway. Rejected:
ALTER ROLE … PASSWORD with the password itself in it.

A new password does not end sessions: open connections continue, and the next connection needs the new password.
"""

from pathlib import Path

import psycopg
from psycopg import sql

from tracker.database.database import Connection, translated
from tracker.database.enums import login_of
from tracker.errors import TrackerError

SCRAM = b"scram-sha-256"


def read_password(path: Path) -> str:
    """Read the first line of a file.

    Raises:
        TrackerError: there is no such file, or it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, ValueError) as error:
        raise TrackerError(f"the password cannot be read from {path} ({error}): name its file") from error


def rotate(connection: Connection, kind: str, password: str) -> str:
    """Set the password of a worker class; return the login's name.

    Raises:
        TrackerError: the password is empty, or the server refuses the change.
    """
    if not password or "\0" in password:
        raise TrackerError("a password must have at least one character, and no NUL: write another one into the file")
    login = login_of(kind)
    try:
        verifier = connection.pgconn.encrypt_password(password.encode(), login.encode(), SCRAM)
    except psycopg.Error as error:
        raise TrackerError(f"the password cannot be prepared ({error}): choose another one") from error
    with translated():
        connection.execute(
            sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(login), sql.Literal(verifier.decode()))
        )
    return login
