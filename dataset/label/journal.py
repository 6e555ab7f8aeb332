"""A file of JSON lines that are only appended to, each on the disk before it is acknowledged.

The first line is the header: what the other lines are about. A last line that was cut off is removed when the file is
opened. One process at a time writes it.
"""

import errno
import fcntl
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dataset import strict_json
from dataset.errors import DatasetError


class LabelError(DatasetError):
    """Pictures cannot be drawn or labelled, or answers not be read."""


class Journal:
    """An open file. `lines` are those that it had when it was opened, without the header."""

    def __init__(self, path: Path, header: Mapping[str, Any], *, remedy: str, writable: bool = True) -> None:
        """Open the file, or create it; `remedy` ends the sentences of errors. Unless `writable`, it is only read, also
        while another process has it open.

        Raises: LabelError when another process has it open, it is damaged, or it has another header.
        """
        self._path, self._remedy, self._lock = path, remedy, threading.Lock()
        there = path if writable or path.exists() else Path(os.devnull)
        try:
            self._file = there.open("a+b" if writable else "rb", buffering=0)
        except OSError as error:
            raise LabelError(f"Cannot open {path} ({error.strerror}): {remedy}.") from error
        try:
            if writable:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise LabelError(f"Another process has {path} open: end it, or {remedy}.") from error
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if writable and whole < len(data):
            self._file.truncate(whole)
        try:
            read = [json.loads(line) for line in data[:whole].splitlines()]
        except ValueError as error:
            raise self.damaged(error) from error
        self.lines: list[Any] = read[1:]
        if not read and writable:
            self.append(header)
        elif read and read[0] != json.loads(strict_json.dumps(header)):
            self.close()
            raise LabelError(f"{path} has answers of another release, version or draw: {remedy}.")

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a line, and wait until it is on the disk.

        Raises: LabelError when it cannot be written, for example on a full disk; the file stays as it was.
        """
        line = strict_json.dumps(record).encode() + b"\n"
        with self._lock:  # annotators answer at the same time
            whole = os.fstat(self._file.fileno()).st_size
            try:
                self._write(line)
            except OSError as error:
                self._file.truncate(whole)  # or the next line would be a part of this one
                said = f"The answer cannot be stored ({error.strerror}): free some space, then repeat it."
                raise LabelError(said) from error

    def damaged(self, error: Exception) -> LabelError:
        """Close the file, and return the error of a line that cannot be read."""
        self.close()
        return LabelError(f"{self._path} is damaged ({error}): restore it, or {self._remedy}.")

    def close(self) -> None:
        """Let another process write."""
        self._file.close()

    def _write(self, line: bytes) -> None:
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._file.fileno())
