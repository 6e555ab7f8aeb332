"""`tracker tag`: the plan of the tagging of a release with heads.

The steps and their units are those of `dataset.tagging.jobs`, computed from the counts of the release's records and
from what the heads' files say; a test compares the two. A worker computes the plan again before the first step, and
refuses one that does not fit.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tracker.errors import TrackerError
from tracker.seeding.builds import Build
from tracker.seeding.release_embeddings import data_files, embeddings_by_batch
from tracker.seeding.releases import ReleaseRun
from tracker.storage.open import open_existing_store

# As in dataset/tagging/options.py and dataset/tags/heads.py.
UNIT_ROWS, UNIT_PICTURES = 262_144, 50_000
METADATA_KEY = "shoal.head"
EMBEDDING, PICTURE = "embedding", "picture"
TABLE = "tags"
MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TagRequest:
    """The options of the command: names of heads in the store, and the folder below embeddings/, '' if not given."""

    heads: Sequence[str]
    model: str


@dataclass(frozen=True, slots=True)
class StoredHead:
    """A head in the store: its name in recipes, what it computes and reads, its sha256."""

    head: str
    tag: str
    kind: str
    sha256: str


def tag_build(store: str, run: ReleaseRun, request: TagRequest) -> Build:
    """Return the build of the table `tags`.

    Raises:
        TrackerError: a head is missing or damaged, two compute one tag, or the release has no such embeddings.
    """
    heads: dict[str, StoredHead] = {}
    for name in request.heads:
        head = read_head(store, name)
        if head.tag in heads:
            raise TrackerError(f"{heads[head.tag].head} and {head.head} both compute {head.tag}: give one for each tag")
        heads[head.tag] = head
    kinds = {head.kind for head in heads.values()}
    if (EMBEDDING in kinds) != bool(request.model):
        raise TrackerError(
            "a head reads embeddings: name their folder below embeddings/ with --model"
            if EMBEDDING in kinds
            else "no head reads embeddings: leave --model out"
        )
    data = data_files(run)
    plan = [("plan", 1)]
    if EMBEDDING in kinds:
        counts = [rows for files in embeddings_by_batch(store, run, request.model).values() for rows in files]
        plan.append(("score", sum(-(-rows // UNIT_ROWS) for rows in counts)))
    if PICTURE in kinds:
        pictures = -(-sum(int(file["rows"]) for file in data) // UNIT_PICTURES)
        plan += [("locate", len(data)), ("tars", 1), ("pictures", pictures)]
    plan += [("write", len(data)), ("finish", 1), ("clean", 1)]
    return Build("tag", TABLE, _options(heads, request.model), plan)


def _options(heads: Mapping[str, StoredHead], model: str) -> Mapping[str, Any]:
    """Return the options of `dataset.tagging.options.Options`."""
    chosen = {tag: {"head": one.head, "sha256": one.sha256, "kind": one.kind} for tag, one in sorted(heads.items())}
    return {
        "heads": chosen, "model": model, "unit_rows": UNIT_ROWS, "unit_pictures": UNIT_PICTURES, "build": "",
    }  # fmt: skip


def read_head(store: str, name: str) -> StoredHead:
    """Read what a head's file in the store says; `name` is NAME or store:heads/NAME.safetensors.

    Raises:
        TrackerError: it is missing, or not a head.
    """
    path = name.removeprefix("store:") if name.startswith("store:") else f"heads/{name}.safetensors"
    try:
        with open_existing_store(store).open_input_file(path) as file:
            data = file.read()
        length = int.from_bytes(data[:8], "little")
        said = json.loads(json.loads(data[8 : 8 + min(length, MAX_HEADER_BYTES)])["__metadata__"][METADATA_KEY])
        tag, kind = str(said["tag"]), str(said["kind"])
    except FileNotFoundError:
        raise TrackerError(f"the store {store} has no head {path}: put it there with dataset heads add") from None
    except (pa.ArrowException, OSError) as error:
        raise TrackerError(f"cannot read {path} in {store}: {error}; check the store and try again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TrackerError(f"{path} in {store} is not a head: make it again, and add it under a new name") from error
    if kind not in (EMBEDDING, PICTURE):
        raise TrackerError(f"{path} in {store} reads {kind!r}, which this version does not know: use a newer Shoal")
    return StoredHead(f"store:{path}", tag, kind, hashlib.sha256(data).hexdigest())
