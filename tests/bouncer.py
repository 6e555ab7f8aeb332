"""pgbouncer in transaction mode before an embedded server."""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.demo.small_crawl import free_port
from tracker.database import embedded_postgres

START_SECONDS = 60

CONFIGURATION = """
[databases]
* = host={host} port={port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
max_client_conn = 10000
default_pool_size = {pool_size}
query_wait_timeout = 60
server_login_retry = 1
ignore_startup_parameters = extra_float_digits,options
logfile = {folder}/log
pidfile = {folder}/pid
"""


class Bouncer:
    """One at one port, however often it is restarted; who is among `users` needs no password."""

    def __init__(self, server: str, folder: Path, *, users: Sequence[str] = ("postgres",), pool_size: int = 20) -> None:
        """Start it before the server of that URL, with its files in the new folder `folder`.

        Raises: RuntimeError when pgbouncer is not installed or does not open.
        """
        program = self.program()
        if program is None:
            raise RuntimeError("pgbouncer is missing: install it (Debian: apt-get install pgbouncer) and try again")
        folder.mkdir(mode=0o755)
        self.port = free_port()
        self._server = server
        self._log = folder / "log"
        self._user = embedded_postgres.SYSTEM_USER if os.geteuid() == 0 else None
        target = conninfo_to_dict(server)
        (folder / "users").write_text("".join(f'"{user}" ""\n' for user in users))
        (folder / "ini").write_text(
            CONFIGURATION.format(
                host=target["host"],
                port=target.get("port") or 5432,
                own=self.port,
                folder=folder,
                pool_size=pool_size,
            )
        )
        if self._user:
            shutil.chown(folder, self._user)
        self._command = [program, "-q", str(folder / "ini")]
        self._first_user = users[0]
        self._process = self._start()

    @staticmethod
    def program() -> str | None:
        """Where pgbouncer is, if it is installed."""
        return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

    def url(self, user: str) -> str:
        """The server's URL through it, for a user."""
        return make_conninfo(
            self._server, user=user, host="127.0.0.1", port=self.port, sslmode="disable", gssencmode="disable"
        )

    def restart(self) -> None:
        """Kill it and start it again: every connection through it is cut."""
        self.close()
        self._process = self._start()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(self._command, user=self._user, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with suppress(psycopg.OperationalError):
                psycopg.connect(self.url(self._first_user)).close()
                return process
            time.sleep(0.05)
        process.kill()
        process.wait()
        said = self._log.read_text()[-500:] if self._log.exists() else "it wrote no log"
        raise RuntimeError(f"pgbouncer did not open: {said}")
