"""How many WAT files this machine reads from one host at once: a slot is a locked file, so a dead worker's is free.

Common Crawl's server is everybody's; workers of one machine share an address, and are answered 403 or 503 together.
Slots lie in the machine's folder for temporary files; containers share them if they share it (SHOAL_WAT_SLOTS).
"""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from workers.errors import WorkerError

MAX_CONNECTIONS = 8
"""To one host, at once; SHOAL_WAT_CONNECTIONS says another number."""
WAIT_SECONDS = 1.0


def take_slot(host: str, pause: Callable[[float], object]) -> int:
    """Wait for one of the machine's slots to a host; return the descriptor that holds it, to be closed.

    Raises: WorkerError when the settings or the folder cannot be used; what `pause` raises.
    """
    folder = Path(os.environ.get("SHOAL_WAT_SLOTS") or Path(tempfile.gettempdir()) / f"shoal-wat-{os.geteuid()}")
    name = hashlib.sha256(host.encode()).hexdigest()[:16]
    slots = [folder / f"{name}.{number}" for number in range(_most())]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            for slot in slots:
                if (held := _lock(slot)) is not None:
                    return held
            pause(WAIT_SECONDS)
    except OSError as error:
        raise WorkerError(f"{folder} cannot be used ({error.strerror}): set SHOAL_WAT_SLOTS to a folder") from error


def _lock(slot: Path) -> int | None:
    descriptor = os.open(slot, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _most() -> int:
    text = os.environ.get("SHOAL_WAT_CONNECTIONS") or str(MAX_CONNECTIONS)
    if not text.isdecimal() or int(text) == 0:
        raise WorkerError(f"SHOAL_WAT_CONNECTIONS is {text!r}: set it to a number from 1 on")
    return int(text)
