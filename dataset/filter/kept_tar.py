"""Write the tar of a part's pictures, for runs that keep only the pictures that passed the filter.

Invariant: `<part>.tar` contains the members of exactly the samples in `<part>.parquet`, unchanged and in the shard's
order. It exists whole or not at all, so the same shard and part give the same bytes.

It reads the shard a second time, about 200 MB. Rejected: keeping pictures in memory until their batch is scored and
writing them then, which would tie scoring to the tar.
"""

import tarfile

from dataset.formats.shards import ShardError
from dataset.store.store import Store, StoreError


def write_kept_tar(store: Store, shard: str, part: str) -> int:
    """Copy the kept samples of the shard into `<part>.tar`, and return its size in bytes.

    Raises: ShardError when a kept sample's picture cannot be read again; StoreError. In both cases no tar is left.
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
                samples.members = []  # type: ignore[attr-defined]  # otherwise tarfile keeps every header, 30 MB for a shard
                chosen.members = []  # type: ignore[attr-defined]
                key, _, extension = member.name.partition(".")
                if key in kept:
                    chosen.addfile(member, samples.extractfile(member))
                    if extension not in ("txt", "json"):
                        missing.discard(key)
            if missing:
                raise ShardError(f"The picture of {min(missing)} is missing from {shard}.tar: filter the shard again.")
    except (tarfile.TarError, EOFError) as error:
        raise ShardError(f"Cannot read {shard}.tar ({error}): filter the shard again.") from error
    except OSError as error:
        raise StoreError(f"Cannot copy from {shard}.tar to {part}.tar ({error}): check the store.") from error
    return store.size(f"{part}.tar")
