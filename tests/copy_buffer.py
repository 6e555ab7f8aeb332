"""A whole COPY in one buffer, which ingest sends in pieces."""

import pyarrow as pa

from tracker.protocol.copy_rows import SIGNATURE, TRAILER, copy_rows


def copy_buffer(candidates: pa.Table, *, leaf: int, run_id: int, subset: str, attempt: int = 1) -> bytes:
    """Return the bytes that copy the candidates of one subset into a leaf; arguments are those of copy_rows."""
    rows = copy_rows(candidates, leaf=leaf, run_id=run_id, subset=subset, attempt=attempt)
    return b"".join((SIGNATURE, rows, TRAILER))
