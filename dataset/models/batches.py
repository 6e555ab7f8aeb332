"""Batches of samples, full in number or in bytes.

Invariant: a batch has at most the requested number of samples, and at most BATCH_BYTES of pictures or one sample;
batches depend only on the samples and their order. A pipeline holds about five batches of each shard in progress, and a
picture may have up to 20 MB: if only the number of samples were limited, 1,024 pictures kept as received could take 20
GB.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

from dataset.formats.shards import LostSample, Sample

BATCH_BYTES = 128 << 20
"""1,024 pictures of 125 kB: twice the mean on the web, so that ordinary batches are full in number."""

Item = TypeVar("Item", bound=Sample | LostSample)
Kind = TypeVar("Kind", bound=Hashable)


def in_batches(
    items: Iterable[Item], kind_of: Callable[[Item], Kind], most: Callable[[Kind], int]
) -> Iterator[tuple[Kind, list[Item]]]:
    """Yield batches of one kind each: batches of `most` samples as soon as they are full, and at the end the incomplete
    ones.
    """
    waiting: dict[Kind, list[Item]] = {}
    held: Counter[Kind] = Counter()
    for item in items:
        kind, size = kind_of(item), len(item.image) if isinstance(item, Sample) else 0
        if held[kind] + size > BATCH_BYTES and kind in waiting:
            yield kind, waiting.pop(kind)
            held[kind] = 0
        batch = waiting.setdefault(kind, [])
        batch.append(item)
        held[kind] += size
        if len(batch) == most(kind):
            yield kind, waiting.pop(kind)
            held[kind] = 0
    yield from waiting.items()
