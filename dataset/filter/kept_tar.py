"""What a part keeps of its shard's pictures: a WebDataset tar beside it, for runs that keep only what was kept.

Invariant: `<part>.tar` holds the members of exactly the samples in `<part>.parquet`, as they stood in the shard, in the
same order; it is there whole or not at all. So the same shard and part give the same bytes.

It reads the shard a second time, some 200 MB. Rejected: holding the pictures until their batch is scored and writing
them from there, which ties the scoring to the tar.
"""

import tarfile

from dataset.formats.shards import ShardError
from dataset.store.store import Store, StoreError


def write_kept_tar(store: Store, shard: str, part: str) -> int:
    """Copy the kept samples of the shard into `<part>.tar`; returns its bytes.

    Raises: ShardError when a kept sample's picture cannot be read again; StoreError. Then no tar is there.
    """
    missing = set(store.read_table(f"{part}.parquet", ["key"])["key"].to_pylist())
    kept = frozenset(missing)
    try:
        with (
            store.open_input(f"{shard}.tar") as source,
            tarfile.open(fileobj=source, mode="r|") as samples,
            store.write(f"{part}.tar") as file,
            tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as chosen,
        ):
            for member in samples:
                samples.members = []  # type: ignore[attr-defined]  # or tarfile keeps every header: 30 MB for a shard
                chosen.members = []  # type: ignore[attr-defined]
                key, _, extension = member.name.partition(".")
                if key in kept:
                    chosen.addfile(member, samples.extractfile(member))
                    if extension not in ("txt", "json"):
                        missing.discard(key)
            if missing:
                raise ShardError(f"{shard}.tar has lost the picture of {min(missing)}: filter the shard again.")
    except (tarfile.TarError, EOFError) as error:
        raise ShardError(f"{shard}.tar cannot be read ({error}): filter the shard again.") from error
    except OSError as error:
        raise StoreError(f"Cannot copy from {shard}.tar to {part}.tar ({error}): mend the store.") from error
    return store.size(f"{part}.tar")
