"""The Postgres on which the tracker is measured: the embedded binaries with the settings of docker/postgresql.conf."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from psycopg import sql

from tracker.database import embedded_postgres
from tracker.database.database import Connection, connect
from tracker.database.migrate import migrate

SETTINGS = Path("docker/postgresql.conf")
# Where it listens is the embedded server's own matter, and it asks no password.
NOT_OURS = {"listen_addresses", "password_encryption"}


@dataclass(frozen=True, slots=True)
class Server:
    home: Path
    url: str

    def restart(self, *, cold: bool = False) -> None:
        """Start it anew; cold: with none of its files in the kernel's cache."""
        embedded_postgres.stop(self.home)
        if cold:
            _forget(self.home)
        embedded_postgres.start(self.home)

    def seconds_of_cpu(self) -> float:
        """What its processes have used so far; those that have ended are in the first one's count."""
        first = psutil.Process(int((self.home / "postgres" / "postmaster.pid").read_text().split()[0]))
        own = first.cpu_times()
        used = own.user + own.system + own.children_user + own.children_system
        for child in first.children():
            try:
                times = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used += times.user + times.system
        return float(used)


@contextmanager
def tuned_server(folder: Path | None) -> Iterator[Server]:
    """A migrated server in a new folder under `folder` (None: the system's), removed at the end."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", dir=folder, ignore_cleanup_errors=True) as made:
        home = Path(made)
        home.chmod(0o755)
        server = Server(home, embedded_postgres.start(home))
        try:
            with connect(server.url) as admin:
                _set_all(admin)
            server.restart()
            migrate(server.url)
            yield server
        finally:
            embedded_postgres.stop(home, mode="immediate")


def _set_all(admin: Connection) -> None:
    for line in SETTINGS.read_text(encoding="utf-8").splitlines():
        setting = re.match(r"(\w+) = ('[^']*'|[^\s#]+)", line)
        if setting and setting[1] not in NOT_OURS:
            admin.execute(sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(setting[1]), setting[2].strip("'")))


def _forget(home: Path) -> None:
    """Ask the kernel to drop the server's files from its cache."""
    for path in (home / "postgres" / "base").rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
