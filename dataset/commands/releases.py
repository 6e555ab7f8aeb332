"""Helpers of the commands on releases: find the release that an argument names."""

from pathlib import Path
from typing import Annotated

import typer

from dataset.formats.releases import RECORD, Release, open_release
from dataset.store.local_paths import is_folder
from dataset.store.store import Store

ReleaseArgument = Annotated[
    str, typer.Argument(metavar="RELEASE", help="Its name in the store, or the path or URI of its folder.")
]


def open_named_release(name: str, store_uri: str, *, writable: bool = True) -> Release:
    """Open the release that a user names.

    Raises: ReleaseError when there is none; StoreError.
    """
    if "://" in name or "/" in name or (name and is_folder(Path(name))):
        return open_release(Store.open(name, writable=writable), "")
    return open_release(Store.open(store_uri, writable=writable), name)


def is_release(name: str) -> bool:
    """Return whether a user names a release, and not a folder of other files."""
    if "://" not in name and "/" not in name and not is_folder(Path(name)):
        return True
    return Store.open(name, writable=False).exists(RECORD)
