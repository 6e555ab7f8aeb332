"""Thumbnails of rows whose pictures are still kept."""

from itertools import islice

from dataset.dedup.vectors import Integers
from dataset.formats.manifest import ManifestError
from dataset.formats.releases import Release, ReleaseError
from dataset.models.decoders import Decoders
from dataset.models.inputs import SmallJpeg
from dataset.select.errors import SelectError
from dataset.select.pictures import kept_pictures

THUMBNAIL_PIXELS = 224
DECODED_AT_ONCE = 64
"""Pictures as received in memory at a time."""


def kept_thumbnails(release: Release, ids: Integers, pixels: int = THUMBNAIL_PIXELS) -> dict[int, bytes]:
    """Return JPEGs by id of those rows whose pictures are kept; `ids` are sorted. A copy of a release, which has no
    `source/`, has none, and neither has a release whose crawls' stores are gone.

    Raises: StoreError.
    """
    made: dict[int, bytes] = {}
    kept = kept_pictures(release, ids)
    try:
        with Decoders() as decoders:
            while some := list(islice(kept, DECODED_AT_ONCE)):
                jpegs = decoders.each(SmallJpeg(pixels), [picture for _, picture in some])
                made |= {one: jpeg for (one, _), jpeg in zip(some, jpegs, strict=True) if jpeg is not None}
    except (SelectError, ReleaseError, ManifestError):
        return {}
    return made
