"""A store that fails while a control file exists, whose content names the place and the error, e.g. `publish EIO`.

Only calls to the operating system are replaced: `write` fails when a file is opened for writing, `publish` when a
complete file is moved to its place, `read` when a file is opened or looked up. The store's own code handles the errors.
(A full disk is real where the run may mount one: see tests.chaos.machine.)
"""

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from dataset.store.store import Store

CONTROL = "SHOAL_CHAOS_STORE"


def illness() -> tuple[str, int]:
    """Return where the store fails now and with which errno; ("", 0) while it works."""
    try:
        where, name = Path(os.environ[CONTROL]).read_text(encoding="utf-8").split()
    except (OSError, KeyError, ValueError):
        return "", 0
    return where, getattr(errno, name)


def _maybe_fail(here: str) -> None:
    where, number = illness()
    if where == here:
        raise OSError(number, f"{os.strerror(number)}, as the chaos run wants it")


class _SickFileSystem:
    def __init__(self, well: pafs.FileSystem) -> None:
        self._well = well

    def open_input_file(self, path: str) -> Any:
        _maybe_fail("read")
        return self._well.open_input_file(path)

    def get_file_info(self, what: Any) -> Any:
        _maybe_fail("read")
        return self._well.get_file_info(what)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._well, name)


def sicken() -> None:
    """Make every store of this process fail when the control file says so."""
    begin, aside, publish = Store.__init__, Store._aside, Store._publish

    def sick_init(store: Store, uri: str, filesystem: pafs.FileSystem, root: str) -> None:
        begin(store, uri, filesystem, root)
        store._filesystem = _SickFileSystem(filesystem)

    def sick_aside(store: Store, place: str) -> Path:
        _maybe_fail("write")
        return aside(store, place)

    def sick_publish(store: Store, written: Path, place: str, *, durable: bool = True) -> None:
        _maybe_fail("publish")
        publish(store, written, place, durable=durable)

    Store.__init__ = sick_init  # type: ignore[method-assign, assignment]
    Store._aside = sick_aside  # type: ignore[method-assign, assignment]
    Store._publish = sick_publish  # type: ignore[method-assign, assignment]
