"""Read WebDataset tars of any origin: a sample is a run of adjacent members with one key.

Source: the WebDataset convention as img2dataset writes it. A member's key is its path up to the first dot of the file
name; the rest is its kind. A sample has one picture (PICTURES), a caption from `txt` or from `caption` in `json`, and a
URL from `url` in `json`. Members of other kinds belong to the sample and are not read.

Invariant: one sample is in memory at a time (plus a hash of the key of each incomplete one), and everything in the tar
is counted: a sample without a picture or with unreadable json is lost; a file that belongs to no sample, such as the
`._NAME` that tar writes on a Mac, is another member. A truncated tar is an error, because nothing else shows what is
missing; Shoal's own shards have a table for that (`dataset.formats.shards`). A tar in which a sample's members are not
adjacent, as plain `tar` may pack them, is an error too: its pictures would have no captions.

Rejected: tarfile's own gzip stream, which silently ends after the first of several gzip members, and tarfile's
treatment of a damaged header as the end of the archive.
"""

import gzip
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Self

from dataset.formats.shards import LostSample, Sample, ShardError
from dataset.store.store import Store

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "avif")
TEXTS = ("txt", "json")
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
MAX_MEMBER_BYTES = 100_000_000
"""A larger member is not a picture of a training set, and could fill the memory."""


class _ScatteredError(tarfile.TarError):
    pass


@dataclass(slots=True)
class _Group:
    """The members with one key read so far, by kind; None for one that is too large."""

    key: str
    members: dict[str, bytes | None] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    @property
    def is_bare(self) -> bool:
        """Return whether this is a picture without text, or a text without a picture."""
        return bool(self.members) and self.members.keys().isdisjoint(TEXTS) != self.members.keys().isdisjoint(PICTURES)


class _Header(tarfile.TarInfo):
    """A tar header that raises ReadError if damaged; tarfile would end the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the end-of-archive marker
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no header at byte {tarfile_.offset}: {error}") from error


def read_webdataset(
    store: Store, path: str, on_other: Callable[[str], object] = lambda _name: None
) -> Iterator[Sample | LostSample]:
    """Yield the samples of the tar at `path`, in its order; their sizes are 0, because they are not decoded.

    `on_other` is called with the name of each file that belongs to no sample.

    Raises: StoreError when the tar is missing; ShardError when it is not a tar, is damaged or breaks off.
    """
    try:
        with store.open_input(path) as file, _opened(file) as tar:
            group = _Group("")
            bare: set[tuple[int, bool]] = set()
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps every header
                if member.isdir():
                    continue
                name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                key, kind = _parted(name)
                if not key or not member.isfile():
                    on_other(name)
                    continue
                if key != group.key or kind in group.members:
                    _require_together(group, bare)
                    yield from _ended(group, on_other)
                    group = _Group(key)
                if kind not in (*PICTURES, *TEXTS):
                    group.unread.append(name)
                else:
                    group.members[kind] = _content(tar, member)
            _require_together(group, bare)
            yield from _ended(group, on_other)
    except _ScatteredError as error:
        raise ShardError(f"{path} in {store.uri}: {error}: pack it with `tar --sort=name`.") from error
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ShardError(f"Cannot read {path} in {store.uri} to its end ({error}): fetch it again.") from error


@contextmanager
def _opened(file: IO[bytes]) -> Iterator[tarfile.TarFile]:
    is_gzip = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    if is_gzip:
        with (
            gzip.open(file) as inflated,
            tarfile.open(fileobj=inflated, mode="r|", encoding="utf-8", tarinfo=_Header) as tar,
        ):
            yield tar
    else:
        with tarfile.open(fileobj=file, mode="r|*", encoding="utf-8", tarinfo=_Header) as tar:
            yield tar


def _parted(name: str) -> tuple[str, str]:
    """Return the key and kind of a member; both are empty if its name does not have two parts."""
    folder, slash, last = name.rpartition("/")
    stem, dot, kind = last.partition(".")
    return (folder + slash + stem, kind.lower()) if stem and dot else ("", "")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    if member.size > MAX_MEMBER_BYTES:
        return None
    content = tar.extractfile(member)
    return content.read() if content else b""


def _require_together(group: _Group, bare: set[tuple[int, bool]]) -> None:
    """Raise _ScatteredError if a picture is not next to its text; `bare` contains the groups that lacked either."""
    if not group.is_bare:
        return
    has_text = not group.members.keys().isdisjoint(TEXTS)
    if (hash(group.key), not has_text) in bare:
        raise _ScatteredError(f"the members of sample {group.key} are not adjacent")
    bare.add((hash(group.key), has_text))


def _ended(group: _Group, on_other: Callable[[str], object]) -> Iterator[Sample | LostSample]:
    """Yield the sample that a complete group of members forms, if any."""
    if not group.members:
        for name in group.unread:
            on_other(name)
        return
    about = _object(group.members.get("json", b"{}"))
    said = group.members.get("txt")
    caption = said.decode("utf-8", "replace") if said is not None else _text(about, "caption")
    url = _text(about, "url")
    picture = next((group.members[kind] for kind in PICTURES if kind in group.members), b"")
    if about is None:
        yield LostSample(group.key, url, caption, "its json cannot be read")
    elif None in group.members.values():
        yield LostSample(group.key, url, caption, f"a member has more than {MAX_MEMBER_BYTES:,} bytes")
    elif not picture:
        yield LostSample(group.key, url, caption, "it has no picture")
    else:
        yield Sample(group.key, picture, url, caption, None, "nolang", 0, 0, 0, 0, 0, 0)


def _object(data: bytes | None) -> Mapping[str, object] | None:
    """Return a JSON object; None if the data is not one."""
    try:
        about = json.loads(data or b"")
    except (ValueError, RecursionError):
        return None
    return about if isinstance(about, dict) else None


def _text(about: Mapping[str, object] | None, name: str) -> str:
    """Return a text of a JSON object, with lone surrogates replaced; '' if it is not a text."""
    value = (about or {}).get(name)
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else ""
