"""The inputs of a publish: the parts that a store's manifest lists for a run, and the information in their metadata.

Only this module of the package reads manifests and the metadata of parts.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dataset.formats.manifest import ManifestHead, OutputKind, outputs
from dataset.formats.parts import PART_SCHEMA, list_columns
from dataset.publish.errors import PublishError
from dataset.recipe.extra_columns import type_name
from dataset.store.store import Store, StoreError


@dataclass(frozen=True, slots=True)
class InputName:
    """A run of a store; `store` is '.' for the store that the release is in."""

    store: str
    run: str

    @classmethod
    def parse(cls, text: str, store: str) -> "InputName":
        """Read `RUN`, of the store at `store`, or `STORE-URI#RUN`.

        Raises: PublishError when it is neither.
        """
        uri, separator, run = text.rpartition("#")
        if not run or (separator and not uri):
            raise PublishError(f"The input {text!r} does not name a run: write RUN, or STORE-URI#RUN.")
        if "@" in uri.partition("://")[2].partition("/")[0]:
            raise PublishError(
                f"The store of the input {run} has credentials in its URI, which the release would publish: leave them "
                "out, and pass them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or in the store's own settings."
            )
        return cls("." if uri in ("", store) else uri, run)


@dataclass(frozen=True, slots=True)
class Part:
    """A part as the manifest lists it; `path` ends in .parquet."""

    path: str
    rows: int


@dataclass(frozen=True, slots=True)
class PartHead:
    """Facts about a part's run, from the part's schema."""

    recipe: str
    models: Mapping[str, Any]
    tags: Mapping[str, Any]
    columns: Mapping[str, str]


def read_tracker(store: Store) -> str:
    """Return the uuid of the tracker that wrote the store's manifest.

    Raises: ManifestError when the manifest is missing, damaged or too old to have it.
    """
    return str(ManifestHead.read(store).tracker)


def list_parts(store: Store, run: str) -> Iterator[Part]:
    """Yield the parts of a run that have rows, in the manifest's order.

    Raises: ManifestError when the manifest cannot be read or has no such run.
    """
    for output in outputs(store, kind=OutputKind.PART, run=run):
        if output.rows:
            yield Part(f"{output.path}.parquet", output.rows)


def read_head(schema: pa.Schema, path: str) -> PartHead:
    """Return the facts in a part's schema.

    Raises: PublishError when it lacks columns that a release needs.
    """
    missing = [field.name for field in PART_SCHEMA if field.name not in schema.names]
    if missing:
        raise PublishError(
            f"The part {path} has no column {', '.join(missing)}: it was filtered by an older Shoal; filter its shards "
            "again, or leave its run out."
        )
    metadata = schema.metadata or {}
    models = json.loads(metadata.get(b"shoal.models", b"{}"))
    wanted = ("model", "pretrained", "threshold", "sha256", "config_sha256")
    return PartHead(
        recipe=metadata.get(b"shoal.recipe", b"").decode(),
        models={role: {key: _public(model.get(key)) for key in wanted} for role, model in sorted(models.items())},
        tags={
            role: {tag: head and {key: _public(value) for key, value in head.items()} for tag, head in heads.items()}
            for role, heads in json.loads(metadata.get(b"shoal.tags", b"{}")).items()
        },
        columns={field.name: type_name(field.type) for field in list_columns(schema)},
    )


def _public(value: Any) -> Any:
    """Return a value in the form that a release may contain: for a file on a local disk only its name, because its path
    is private.
    """
    is_local = isinstance(value, str) and value.startswith(("/", "~", "."))
    return value.rstrip("/").rpartition("/")[2] if is_local else value


def open_part(store: Store, path: str) -> pq.ParquetFile:
    """Open a part.

    Raises: PublishError when it is missing or damaged.
    """
    try:
        return pq.ParquetFile(store.open_input(path))
    except StoreError as error:
        raise PublishError(
            f"The part {path} cannot be opened although the manifest lists it ({error}): if it was deleted, write the "
            "manifest again (tracker manifest) and publish with --restart."
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, error) from error


def damaged(path: str, error: object) -> PublishError:
    """Return the error for a part that cannot be read completely."""
    reason = " ".join(str(error).split())[:200]
    return PublishError(
        f"The part {path} is damaged ({reason}): restore it, or filter its shard again and write the manifest again "
        "(tracker manifest), and publish with --restart."
    )
