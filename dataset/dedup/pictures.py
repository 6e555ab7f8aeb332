"""Thumbnails of rows whose pictures are still kept."""

from dataset.dedup.vectors import Integers
from dataset.formats.manifest import ManifestError
from dataset.formats.releases import Release, ReleaseError
from dataset.models.decoders import Decoders
from dataset.models.inputs import SmallJpeg
from dataset.select.errors import SelectError
from dataset.select.pictures import read_kept

THUMBNAIL_PIXELS = 224


def kept_thumbnails(release: Release, ids: Integers, pixels: int = THUMBNAIL_PIXELS) -> dict[int, bytes]:
    """Return JPEGs by id of those rows whose pictures are kept; `ids` are sorted. A copy of a release, which has no
    `source/`, has none, and neither has a release whose crawls' stores are gone.

    Raises: StoreError.
    """
    try:
        kept = read_kept(release, ids)
    except (SelectError, ReleaseError, ManifestError):
        return {}
    with Decoders() as decoders:
        made = decoders.each(SmallJpeg(pixels), list(kept.values()))
    return {one: jpeg for one, jpeg in zip(kept, made, strict=True) if jpeg is not None}
