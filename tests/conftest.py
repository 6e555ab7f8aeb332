"""A real Postgres for every test that requests it: the embedded server, or that of SHOAL_TEST_DATABASE_URL.

Temporary files are in memory where there is enough: a copy of a database takes a tenth of the time that it takes on a
disk, and nothing waits for the disk.
"""

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import hypothesis
import psycopg
import pytest
import typer.main
from psycopg.conninfo import make_conninfo

import workers  # noqa: F401 - before any test imports trio, which needs it on Python 3.13
from tests.server_home import server_home
from tracker.database import embedded_postgres
from tracker.database.database import Connection, connect
from tracker.database.migrate import migrate
from tracker.protocol.session import Session

# An example on a busy machine may take longer than hypothesis's 200 ms; no test measures time by it.
hypothesis.settings.register_profile("shoal", deadline=None)
hypothesis.settings.load_profile("shoal")

MEMORY = Path("/dev/shm")
# All tests, in three processes, hold up to 0.9 GB at a time.
MEMORY_NEEDED = 4 << 30


def pytest_configure() -> None:
    """Put temporary files in memory, unless TMPDIR is set, and let idle threads of OpenMP sleep.

    The processes that tests start inherit both. Otherwise a thread of torch or faiss that waits for its next piece of
    work keeps a core busy, which on few cores the threads with work need.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if "TMPDIR" not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_NEEDED:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None


def pytest_xdist_auto_num_workers() -> int:
    """Return the processes of `--numprocesses auto`: half as many again as cores, because tests of the swarm wait."""
    cores = len(os.sched_getaffinity(0))
    return cores + cores // 2


@pytest.fixture(scope="session", autouse=True)
def commands() -> Iterator[None]:
    """Build each program's commands once: that takes longer than most of the calls that tests make in their process."""
    with pytest.MonkeyPatch.context() as patch:
        built = functools.cache(typer.main.get_command)
        patch.setattr("typer.main.get_command", built)
        patch.setattr("typer.testing._get_command", built)
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a server on which databases may be made."""
    if url := os.environ.get("SHOAL_TEST_DATABASE_URL"):
        yield url
        return
    with server_home() as home:
        url = embedded_postgres.start(home)
        with connect(url) as connection:  # a test's data need not outlive a power cut
            for name in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM SET {name} = off".encode())
            connection.execute("SELECT pg_reload_conf()")
        yield url
        embedded_postgres.stop(home, mode="immediate")


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder for an embedded server of the test's own."""
    with server_home() as folder:
        yield folder


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[str]:
    """The name of a migrated database that each test gets a copy of."""
    name = f"shoal_template_{uuid4().hex[:8]}"
    with connect(server) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        migrate(make_conninfo(server, dbname=name))
        yield name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def make_database(server: str, template: str) -> Iterator[Callable[..., str]]:
    """Make fresh, migrated databases, or copies of a database with a given name, and return their URLs."""
    names: list[str] = []
    with connect(server) as connection:

        def make(source: str = template) -> str:
            names.append(f"shoal_test_{uuid4().hex[:8]}")
            connection.execute(f"CREATE DATABASE {names[-1]} TEMPLATE {source}".encode())
            return make_conninfo(server, dbname=names[-1])

        yield make
        for name in names:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture
def database(make_database: Callable[[], str]) -> str:
    """The URL of a fresh, migrated database."""
    return make_database()


@pytest.fixture
def admin(database: str) -> Iterator[Connection]:
    with connect(database) as connection:
        yield connection


@pytest.fixture
def register(database: str) -> Iterator[Callable[[str], Session]]:
    """Register workers of a kind; they are closed with the test."""
    sessions: list[Session] = []

    def register_one(kind: str) -> Session:
        sessions.append(Session.register(database, kind))
        return sessions[-1]

    yield register_one
    for session in sessions:
        session.close()


@pytest.fixture
def expire(admin: Connection) -> Callable[[Session], None]:
    """Let a worker's beat be of an hour ago, as if it had been stopped for so long."""

    def expire_one(session: Session) -> None:
        admin.execute(
            "UPDATE tracker.worker SET seen_at = now() - interval '1 hour' WHERE worker_id = %s", (session.worker_id,)
        )

    return expire_one


@pytest.fixture
def login(server: str, database: str) -> Callable[[str], psycopg.Connection[dict[str, object]]]:
    """Connect as the login of a class of worker."""

    def connect_as(kind: str) -> psycopg.Connection[dict[str, object]]:
        return connect(make_conninfo(database, user=f"shoal_{kind}"))

    return connect_as
