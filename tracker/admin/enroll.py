"""Machines and their tokens. `register` asks for the token; the tracker stores only its SHA-256."""

import hashlib
import secrets
from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import UniqueViolation

from tracker.accounts.changes import record
from tracker.accounts.fleet import give_back, workers
from tracker.database.database import Connection, Row, query, translated
from tracker.database.enums import login_of
from tracker.errors import TrackerError

PASSED_ON = ("sslmode", "sslrootcert", "target_session_attrs", "load_balance_hosts")
"""TLS and failover options that are copied from the admin's URL into a machine's."""


def enroll(connection: Connection, name: str, kind: str) -> str:
    """Register a machine for one class of work and return its token, which cannot be shown again."""
    token = secrets.token_urlsafe(24)
    digest = hashlib.sha256(token.encode()).digest()
    try:
        with translated(), connection.transaction():
            connection.execute(
                "INSERT INTO tracker.machine (name, kind, token_sha256) VALUES (%s, %s, %s)", (name, kind, digest)
            )
            record(connection, "enroll", name, before=None, after={"kind": kind})
    except TrackerError as error:
        if isinstance(error.__cause__, UniqueViolation):
            raise TrackerError(f"a machine {name} is enrolled already: revoke it, and choose another name") from error
        raise
    return token


def login_url(connection: Connection, kind: str, admins: str = "") -> str:
    """Return the URL that a machine's workers log in with; the password in it is a placeholder.

    The admin's own URL names all servers of a cluster; the connection knows only the one that answered.
    """
    known, given = connection.info, conninfo_to_dict(admins)
    hosts = str(given.get("host") or known.host).split(",")
    ports = [port or "5432" for port in str(given.get("port") or known.port).split(",")]
    ports = ports * len(hosts) if len(ports) == 1 else ports
    more = {name: str(value) for name in PASSED_ON if (value := given.get(name) or known.get_parameters().get(name))}
    if any(host.startswith("/") for host in hosts):
        place, more = "", {"host": ",".join(hosts), "port": ",".join(ports)} | more
    else:
        place = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in zip(hosts, ports, strict=True)
        )
    asked = f"?{urlencode(more, quote_via=quote, safe='')}" if more else ""
    return f"postgresql://{login_of(kind)}:PASSWORD@{place}/{quote(known.dbname, safe='')}{asked}"


def machine_workers(connection: Connection, name: str) -> list[Row]:
    """Return the workers of a machine.

    Raises:
        TrackerError: no such machine is enrolled.
    """
    with translated():
        if connection.execute("SELECT FROM tracker.machine WHERE name = %s", (name,)).fetchone() is None:
            raise TrackerError(f"no machine {name} is enrolled")
    return [row for row in workers(connection) if row["machine"] == name]


def revoke(connection: Connection, name: str) -> int:
    """Lock a machine out and return its jobs to their queues at once; return how many workers it had."""
    with translated(), connection.transaction():
        machine = connection.execute(
            "SELECT kind::text AS kind, revoked_at FROM tracker.machine WHERE name = %s FOR NO KEY UPDATE", (name,)
        ).fetchone()
        if machine is None:
            raise TrackerError(f"no machine {name} is enrolled")
        connection.execute(
            "UPDATE tracker.machine SET revoked_at = coalesce(revoked_at, now()) WHERE name = %s", (name,)
        )
        had = connection.execute("SELECT worker_id FROM tracker.worker WHERE machine = %s AND state <> 'gone'", (name,))
        returned = give_back(connection, [row["worker_id"] for row in had.fetchall()])
        n = connection.execute(query("silence_machine"), {"machine": name}).rowcount
        if machine["revoked_at"] is None:
            before = {"kind": machine["kind"], "workers": n, "leases": returned}
            record(connection, "revoke", name, before=before, after=None)
    return n
