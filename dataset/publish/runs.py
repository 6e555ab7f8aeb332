"""The run phase: the parts of a group become one run, sorted by (range, subset, hash).

What a release never holds is dropped here and counted: denied pairs, URLs with credentials, and with --drop-contacts
captions that name an address or a telephone.
"""

from collections import Counter
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.formats.releases import SUBSETS, ReleaseInput
from dataset.formats.url_hashes import url_hashes
from dataset.publish.deny import DenyRules
from dataset.publish.errors import PublishError
from dataset.publish.inputs import Part, damaged, open_part, read_head
from dataset.publish.plan import Work
from dataset.publish.ranges import range_of
from dataset.publish.run_file import KEY, Keys
from dataset.publish.screens import find_contacts, has_credentials
from dataset.store.store import Store

DENIED = "denied"
CREDENTIALS = "credentials"
CONTACTS = "contacts"


def write_run(work: Work, group: int) -> dict[str, int]:
    """Sort the parts of a group into a run, and return how many rows were dropped, by reason.

    Raises: PublishError for a part that is missing, damaged or of other models; StoreError when the store is full.
    """
    rows = _read_parts(work, group)
    contacts = find_contacts(rows["TEXT"])
    dropped: Counter[str] = Counter()
    keep = np.ones(len(rows), bool)
    for reason, mask in (
        (DENIED, _deny_rules(work.release_store.uri, work.plan.deny).matches(rows)),
        (CREDENTIALS, has_credentials(rows["URL"])),
        (CONTACTS, (contacts > 0) & work.plan.options.drop_contacts),
    ):
        dropped[reason] += int((keep & mask).sum())
        keep &= ~mask
    sections = range_of(rows["hash"].to_numpy(), work.plan.ranges) * len(SUBSETS) + _subset_numbers(rows["subset"])
    order = np.lexsort((rows["hash"].to_numpy(), sections))
    order = order[keep[order]]
    rows = rows.select(work.row_schema.names).take(pa.array(order))
    section_rows = np.bincount(sections[order], minlength=work.plan.ranges * len(SUBSETS))
    work.run_file(group).write(rows, _keys(rows, contacts[order]), section_rows)
    return dict(dropped)


def _read_parts(work: Work, group: int) -> pa.Table:
    at, parts = work.read_group(group)
    store, described = work.input_store(at), work.plan.inputs[at]
    seen: set[tuple[bytes, ...]] = set()
    return pa.concat_tables([_read_part(store, part, described, work.row_schema, seen) for part in parts])


def _read_part(
    store: Store, part: Part, described: ReleaseInput, wanted: pa.Schema, seen: set[tuple[bytes, ...]]
) -> pa.Table:
    """Read what the release needs of a part, in the release's types, null where the part has no such column."""
    with open_part(store, part.path) as file:
        _check_head(file.schema_arrow, part.path, described, seen)
        have = [name for name in wanted.names if name in file.schema_arrow.names]
        try:
            table = file.read(columns=[*have, "subset"], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise damaged(part.path, error) from error
    if len(table) != part.rows:
        raise damaged(part.path, f"it has {len(table)} rows, and the manifest says {part.rows}")
    columns = [
        table[field.name].cast(field.type) if field.name in have else pa.nulls(len(table), field.type)
        for field in wanted
    ]
    return pa.table([*columns, table["subset"]], schema=wanted.append(pa.field("subset", pa.string())))


def _check_head(schema: pa.Schema, path: str, described: ReleaseInput, seen: set[tuple[bytes, ...]]) -> None:
    """Refuse a part that other models or heads made than its run's first part.

    `seen` are the heads of this group that were accepted: reading the JSON of each part would cost as much as its rows.
    """
    metadata = schema.metadata or {}
    told = (*(metadata.get(name, b"") for name in (b"shoal.models", b"shoal.tags")), repr(schema.names).encode())
    if told in seen:
        return
    head = read_head(schema, path)
    for what in ("models", "tags", "columns"):
        if getattr(head, what) != getattr(described, what):
            raise PublishError(
                f"The part {path} was made with other {what} than the first of the run {described.run}: filter its "
                "shard again by the run's recipe, and write the manifest anew (tracker manifest)."
            )
    seen.add(told)


def _subset_numbers(subsets: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return the position in SUBSETS of each row's subset -> (N,) int64."""
    numbers = pc.index_in(subsets, value_set=pa.array(SUBSETS))
    if numbers.null_count:
        wrong = subsets.filter(pc.is_null(numbers))[0].as_py()
        raise PublishError(
            f"A part says the subset {wrong!r}, not one of {', '.join(SUBSETS)}: filter its shard again."
        )
    found: npt.NDArray[np.int64] = numbers.to_numpy().astype(np.int64)
    return found


def _keys(rows: pa.Table, contacts: npt.NDArray[np.uint8]) -> Keys:
    keys = np.empty(len(rows), KEY)
    keys["hash"] = rows["hash"].to_numpy()
    keys["similarity"] = pc.fill_null(rows["similarity"], -2.0).to_numpy()  # below every cosine
    keys["key"] = rows["key"].to_numpy()
    keys["fingerprint"] = url_hashes(rows["URL"], rows["TEXT"])
    keys["contacts"] = contacts
    return keys


@lru_cache(1)
def _deny_rules(uri: str, paths: tuple[str, ...]) -> DenyRules:
    return DenyRules.load(Store.open(uri, writable=False), paths)
