"""A limit on the files that all workers of this machine read from one host at the same time.

Workers of one machine share an address, and Common Crawl answers 403 or 503 to all of them when it is asked too often.
Each connection holds a lock on a file, so the connections of a dead worker become free. The lock files are in the
folder for temporary files, or in SHOAL_WAT_SLOTS; containers that share the folder share the limit.
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from workers.errors import WorkerError

MAX_CONNECTIONS = 8
"""Per host; SHOAL_WAT_CONNECTIONS overrides it."""
WAIT_SECONDS = 1.0


def take_connection(host: str, pause: Callable[[float], object]) -> int:
    """Wait for one of the machine's connections to a host; return a descriptor, whose closing frees the connection.

    Raises: WorkerError when the settings or the folder are unusable; what `pause` raises.
    """
    folder = Path(os.environ.get("SHOAL_WAT_SLOTS") or Path(tempfile.gettempdir()) / f"shoal-wat-{os.geteuid()}")
    name = hashlib.sha256(host.encode()).hexdigest()[:16]
    locks = [folder / f"{name}.{number}" for number in range(_max_connections())]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            for lock in locks:
                if (held := _lock(lock)) is not None:
                    return held
            pause(WAIT_SECONDS)
    except OSError as error:
        raise WorkerError(
            f"cannot use the folder {folder} ({error.strerror}): set SHOAL_WAT_SLOTS to a folder"
        ) from error


def _lock(path: Path) -> int | None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _max_connections() -> int:
    text = os.environ.get("SHOAL_WAT_CONNECTIONS") or str(MAX_CONNECTIONS)
    if not text.isdecimal() or int(text) == 0:
        raise WorkerError(f"SHOAL_WAT_CONNECTIONS is {text!r}: set it to 1 or more")
    return int(text)
