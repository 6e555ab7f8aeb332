"""The process from which decoders are forked; untrusted pictures are decoded only in its forks.

    python -P -m dataset.pictures.fork_server module:function [argument …]    # with a socket as its stdin

There are two roles. The *origin* calls the function, which loads codecs (and other modules) once and returns what a
decoder does with its socket. For each socket that it receives, it forks a *decoder* in 10 ms, so that a crash costs no
import and decoders share memory. Neither outlives the process that wants pictures, however that process dies: the
origin ends when its own socket is closed and ends its decoders, and the kernel kills a decoder whose origin is gone.

A decoder is limited before it reads a picture: its address space is bounded, it writes no core dumps, and it is the
first choice of the kernel's out-of-memory killer. Its environment contains no secrets.

Rejected: `multiprocessing`'s forkserver and `concurrent.futures`' pool, which stops completely when one process
crashes; forking the worker, which has threads, sockets and a GPU; threads, because a crash ends them all.
"""

import ctypes
import gc
import importlib
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path

Serve = Callable[[socket.socket], None]

ORDER = struct.Struct(">cIQ")
"""To the origin: FORK with a socket and a limit in bytes, or END with a decoder's process id."""

RESULT = struct.Struct(">i")
"""From the origin: the new process id for FORK; the exit code for END, negative for a signal."""

FORK, END = b"F", b"E"

READY = b"R"
"""From a decoder, once: its limits are set and its codecs are loaded."""

DECODE_BYTES = 1 << 30
"""Limit for one picture: 89 million RGB pixels take 358 MB, twice that while Pillow rotates or converts them."""

_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "TZ")
"""All that codecs need; the tracker's URL and the store's keys are not passed on."""

_PR_SET_PDEATHSIG = 1  # prctl(2)


def command(load: str, *arguments: str) -> list[str]:
    """Return the command line of an origin; `load` is the function that loads codecs, as module:name."""
    return [sys.executable, "-P", "-m", "dataset.pictures.fork_server", load, *arguments]


def environment() -> dict[str, str]:
    """Return the environment of an origin."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    kept |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")  # a fork does not copy threads
    return kept | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}


def main() -> None:
    """Run the origin, and a decoder in each fork."""
    module, _, name = sys.argv[1].partition(":")
    for unwanted in (signal.SIGINT, signal.SIGTERM):
        signal.signal(unwanted, signal.SIG_IGN)  # a terminal's signals are for the worker; the origin ends with it
    serve: Serve = getattr(importlib.import_module(module), name)(*sys.argv[2:])
    gc.freeze()  # otherwise the first garbage collection in a fork copies every page
    decoders: set[int] = set()
    origin = os.getpid()
    with socket.socket(fileno=os.dup(0)) as orders:
        while (order := _receive_order(orders)) is not None:
            verb, number, bound, sockets = order
            if verb == FORK:
                decoder = os.fork()
                if not decoder:
                    orders.close()
                    _decode(serve, socket.socket(fileno=sockets[0]), bound, origin)
                os.close(sockets[0])
                decoders.add(decoder)
                orders.sendall(RESULT.pack(decoder))
            elif number in decoders:
                decoders.remove(number)
                orders.sendall(RESULT.pack(_end(number)))
    for decoder in decoders:
        _end(decoder)


def _receive_order(orders: socket.socket) -> tuple[bytes, int, int, list[int]] | None:
    data, sockets, _, _ = socket.recv_fds(orders, ORDER.size, 1)
    if len(data) < ORDER.size:
        return None
    verb, number, bound = ORDER.unpack(data)
    return verb, number, bound, sockets


def _end(decoder: int) -> int:
    """Kill a decoder unless it has ended, and return its exit code."""
    os.kill(decoder, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(decoder, 0)[1])


def _decode(serve: Serve, pictures: socket.socket, bound: int, origin: int) -> None:
    """Run a decoder; never returns."""
    code = 1
    try:
        _take_precautions(bound, origin)
        serve(pictures)
        code = 0
    finally:  # whatever was raised: the origin's exit handlers must not run here
        os._exit(code)


def _take_precautions(bound: int, origin: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != origin:  # the origin died before prctl took effect
            os._exit(1)
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        bound += pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    silence = os.open(os.devnull, os.O_RDWR)  # codecs print warnings about pictures to stderr
    for number in (0, 1, 2):
        os.dup2(silence, number)


if __name__ == "__main__":
    main()
