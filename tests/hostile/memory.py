"""The current and peak memory of this process and its decoders."""

import os
from collections.abc import Iterator
from pathlib import Path


def resident_mib() -> int:
    """Return the memory of this process in MiB."""
    return _kib(os.getpid(), "VmRSS:") >> 10


def peak_mib() -> int:
    """Return the peak since `forget_peak`."""
    return _kib(os.getpid(), "VmHWM:") >> 10


def forget_peak() -> None:
    """Reset the peak; see proc(5), clear_refs."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def decoders_peak_mib() -> int:
    """Return the highest peak of the living child processes."""
    return max((_kib(pid, "VmHWM:") for pid in _descendants(os.getpid())), default=0) >> 10


def _descendants(pid: int) -> Iterator[int]:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = [int(child) for child in children.read_text().split()]
        except OSError:  # that thread has ended
            continue
        for child in found:
            yield child
            yield from _descendants(child)


def _kib(pid: int, name: str) -> int:
    try:
        words = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").split()
    except OSError:  # it has ended
        return 0
    return int(words[words.index(name) + 1]) if name in words else 0
