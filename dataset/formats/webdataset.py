"""WebDataset tars of anyone's: samples from members that share a name and stand together.

Source: the WebDataset convention, as img2dataset writes it: a member's name up to the first dot of its last step is the
key, what follows says what it holds. Taken are one picture (jpg, jpeg, png, webp), the caption from `txt` or from the
`caption` of `json`, and the `url` of `json`; all else is passed over.

Invariant: one sample is held at a time. A tar that breaks off is an error, since nothing else tells what it lost: a
shard of ours has its table for that (`dataset.formats.shards`).
"""

import json
import tarfile
from collections.abc import Iterator, Mapping
from typing import IO

from dataset.formats.shards import Sample, ShardError
from dataset.store.store import Store

PICTURES = ("jpg", "jpeg", "png", "webp")
MAX_MEMBER_BYTES = 100_000_000
"""What is larger is no picture of a training set; its tar would fill the memory."""


def read_webdataset(store: Store, path: str) -> Iterator[Sample]:
    """Yield the samples of the tar at `path` that have a picture, in its order; sizes are 0, they are not looked up.

    Raises: StoreError when it is missing; ShardError when it is no tar, is damaged or breaks off.
    """
    try:
        with store.open_input(path) as file, tarfile.open(fileobj=file, mode="r|*") as tar:
            key, members = "", dict[str, bytes]()
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # or tarfile keeps every header
                if not member.isfile() or member.size > MAX_MEMBER_BYTES:
                    continue
                folder, slash, name = member.name.rpartition("/")
                stem, _, kind = name.partition(".")
                if folder + slash + stem != key:
                    yield from _sample(key, members)
                    key, members = folder + slash + stem, {}
                if kind.lower() in (*PICTURES, "txt", "json"):
                    members[kind.lower()] = _content(tar.extractfile(member))
            yield from _sample(key, members)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ShardError(f"{path} in {store.uri} cannot be read to its end ({error}): fetch it again.") from error


def _content(file: IO[bytes] | None) -> bytes:
    return file.read() if file else b""


def _sample(key: str, members: Mapping[str, bytes]) -> Iterator[Sample]:
    picture = next((members[kind] for kind in PICTURES if kind in members), None)
    if picture is None:
        return
    about = _object(members.get("json", b"{}"))
    told = members.get("txt")
    caption = told.decode("utf-8", "replace") if told is not None else str(about.get("caption") or "")
    yield Sample(key, picture, str(about.get("url") or ""), caption, None, "nolang", 0, 0, 0, 0, 0, 0)


def _object(data: bytes) -> Mapping[str, object]:
    try:
        about = json.loads(data)
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}
