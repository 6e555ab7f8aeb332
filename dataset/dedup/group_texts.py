"""The texts of groups: distinct captions with their similarities, and the number of distinct hosts."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Integers = npt.NDArray[np.int64]

MAX_CAPTIONS = 1_000
"""Different captions of a group that are listed, those of the highest similarity."""
TEXTS = pa.schema(
    [("representative", pa.int64()), ("id", pa.int64()), ("caption", pa.string()), ("similarity", pa.float64()),
     ("host", pa.string())]
)  # fmt: skip
_ORDER = [("representative", "ascending"), ("similarity", "descending"), ("id", "ascending")]


@dataclass(frozen=True, slots=True)
class GroupTexts:
    """The texts of G groups, by representative."""

    representatives: Integers
    captions: pa.ListArray
    similarities: pa.ListArray
    hosts: pa.Array


def texts_of_groups(texts: pa.Table) -> GroupTexts:
    """Return the texts of the groups of rows in the schema TEXTS.

    A caption is listed once, with its highest similarity. A group without captions has one that is empty, at 0.
    """
    ordered = texts.sort_by(_ORDER).combine_chunks()
    names, group = np.unique(ordered["representative"].to_numpy(), return_inverse=True)
    captions = _column(ordered, "caption")
    listed = _first_of_each(group, captions.dictionary_encode("encode").indices.to_numpy())
    known = ~captions.is_null().to_numpy(zero_copy_only=False)
    listed &= known
    without = np.bincount(group[known], minlength=len(names)) == 0
    starts = np.searchsorted(group, np.arange(len(names)))
    filled = starts[without]
    listed[filled] = True
    chosen = np.flatnonzero(listed)
    place = np.arange(len(chosen)) - np.searchsorted(group[chosen], group[chosen])
    chosen = chosen[place < MAX_CAPTIONS]
    offsets = pa.array(np.searchsorted(group[chosen], np.arange(len(names) + 1)), pa.int32())
    similarities = pc.if_else(pa.array(known), _column(ordered, "similarity"), 0.0)
    hosts = _first_of_each(group, _column(ordered, "host").dictionary_encode("encode").indices.to_numpy())
    return GroupTexts(
        names,
        pa.ListArray.from_arrays(offsets, captions.fill_null("").take(pa.array(chosen))),
        pa.ListArray.from_arrays(offsets, similarities.take(pa.array(chosen)).cast(pa.float32(), safe=False)),
        pa.array(np.bincount(group[hosts], minlength=len(names))),
    )


def _column(table: pa.Table, name: str) -> pa.Array:
    chunks = table[name].chunks
    return chunks[0] if chunks else pa.array([], table.schema.field(name).type)


def _first_of_each(group: Integers, values: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Return which rows are the first of their group with their value -> (N,)."""
    found = np.zeros(len(group), bool)
    order = np.lexsort((values, group))
    first = np.ones(len(order), bool)
    first[1:] = (np.diff(group[order]) != 0) | (np.diff(values[order]) != 0)
    found[order[first]] = True
    return found
