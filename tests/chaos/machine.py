"""What the swarm of the chaos run stands on, each piece of which can be broken: Postgres, pgbouncer, the disk."""

import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.demo.small_crawl import free_port
from tracker import embedded
from tracker.database import connect
from tracker.migrate import migrate

DISK_BYTES = 512 << 20
START_SECONDS = 60

# Postgres's sizes for a small machine, and no fsync: what dies here is the server, never the kernel below it.
SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "512MB", "shared_buffers": "64MB"}

BOUNCER = """
[databases]
postgres = host={sockets} dbname=postgres user=postgres

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 1000
default_pool_size = 20
server_login_retry = 1
ignore_startup_parameters = extra_float_digits,options
logfile = {folder}/pgbouncer.log
pidfile = {folder}/pgbouncer.pid
"""


class Server:
    """A migrated embedded Postgres in `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o755)
        self.url = embedded.start(home)
        with connect(self.url) as admin:
            for name, value in SETTINGS.items():
                admin.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
        self.crash()
        migrate(self.url)

    def crash(self) -> None:
        """Stop it as a crash does, without a checkpoint, and start it again."""
        embedded.stop(self.home, mode="immediate")
        embedded.start(self.home)

    def close(self) -> None:
        embedded.stop(self.home, mode="immediate")

    @property
    def socket(self) -> str:
        return f"{conninfo_to_dict(self.url)['host']}/.s.PGSQL.5432"


class Bouncer:
    """pgbouncer in transaction mode before the server, at one port however often it is restarted."""

    def __init__(self, program: str, server: Server, folder: Path) -> None:
        folder.mkdir(mode=0o755)
        self.port = free_port()
        self._log = folder / "pgbouncer.log"
        self._user = embedded.SYSTEM_USER if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(folder, self._user)
        sockets = conninfo_to_dict(server.url)["host"]
        self._file = folder / "pgbouncer.ini"
        self._file.write_text(BOUNCER.format(sockets=sockets, port=self.port, folder=folder))
        self._program = program
        self._process = self._start()

    @staticmethod
    def program() -> str | None:
        """Where pgbouncer is, if it is installed."""
        return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres?sslmode=disable&gssencmode=disable"

    def restart(self) -> None:
        """Kill it and start it again: every connection through it is cut."""
        self.close()
        self._process = self._start()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen([self._program, "-q", str(self._file)], user=self._user, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.url).close()
                return process
            time.sleep(0.05)
        process.kill()
        process.wait()
        raise RuntimeError(
            f"pgbouncer did not open: {self._log.read_text()[-500:] if self._log.exists() else 'no log'}"
        )


class Disk:
    """A small file system of its own for the store, which can be filled to the last byte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], check=True, capture_output=True
        )
        self._ballast = folder / ".ballast"

    def fill(self) -> None:
        """Leave no byte free."""
        with self._ballast.open("wb") as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 20))

    def empty(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False, capture_output=True)
