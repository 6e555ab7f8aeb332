"""Memory of large blocks goes back to the system as soon as they are freed.

glibc raises the size from which blocks are mapped, one by one, to that of the largest that was freed. After the first
upload of 28 MB the next ones are part of the heap, which keeps their memory: 30 MB for each upload that was in flight
at the same time. A size that is set is not raised.
"""

import ctypes
from contextlib import suppress

LARGE_BYTES = 4 << 20
_M_MMAP_THRESHOLD = -3  # malloc.h


def map_large_blocks() -> None:
    """Let malloc map each block of LARGE_BYTES or more by itself; nothing changes where malloc is not glibc's."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
