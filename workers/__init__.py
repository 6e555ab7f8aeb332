"""The stages of the swarm, one module or folder each. A stage claims a job, does the work, and completes the job."""

import sys

if sys.version_info >= (3, 13):
    # trio 0.23, the last that asks works with, refuses to wrap pathlib.PurePath.parser, which is new in Python 3.13.
    # Without it, trio.Path, which nothing here uses, lacks methods of Path.
    import pathlib

    _parser = pathlib.PurePath.parser
    del pathlib.PurePath.parser
    try:
        import trio  # noqa: F401
    finally:
        pathlib.PurePath.parser = _parser
