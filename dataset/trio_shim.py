"""Make trio 0.23, the last that asks works with, importable in Python 3.13.

It refuses to wrap `pathlib.PurePath.parser`, which is new in Python 3.13. So the attribute is missing while trio is
imported; `trio.Path`, which nothing here uses, lacks it afterwards. Import this module before trio, and before what
imports trio when it is installed: httpcore, and with it huggingface_hub, open_clip, timm and transformers.
"""

import pathlib
import sys

if sys.version_info >= (3, 13):
    _parser = pathlib.PurePath.parser
    del pathlib.PurePath.parser
    try:
        import trio  # noqa: F401
    finally:
        pathlib.PurePath.parser = _parser
