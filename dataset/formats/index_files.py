"""Files of a kNN index over the embeddings of a release, or over a folder of vectors.

    releases/NAME/index/{model}/{modality}/        modality: image or text, whose vectors are searched
      index.json                     the record; replaced whole, so a reader sees one state or the next
      README.md                      the card: recall and speed, for people
      speed.json                     milliseconds of a search by probed lists, as measured when the build ended
      {generation}-v1/trained.faiss  rotation, centroids and parameters of the codes, without rows; for all segments
      {generation}-v1/held_out.npy   the queries that recall is measured with
      {segment}/positions.i64        the position of each id from first_id on, −1 for none
      {segment}/lists-00000.ivf      of each list in turn: the codes of its rows, then their positions (int64)
      {segment}/sizes-00000.u32      rows of each list
      {segment}/rows-00000.f16       (N, D) float16 unit rows; absent if the codes are these rows
      {segment}/ids-00000.i64        ids in the order of positions
      {segment}/numbers-00000.bin    (N,) records of fixed width
      {segment}/texts-00000.zst      frames of FRAME_ROWS rows; frames-00000.u64 has their offsets
      {segment}/bits-00000.1.bits    (facets, bytes) bitmaps over positions; facets-00000.1.u32 (lists, facets) counts
      {segment}/domains-00000.npz    rows by host and by each domain above it
      {segment}/groups-00000.1.bin   (N,) representative int64 and group size uint32 of near-duplicates, if they are
                                     known; members-00000.1.u32: the rows in groups, by representative

Invariant: a segment is divided into ranges of lists, each with its own files; rows lie in the order of (list, id), and
the row at that place is its position, plus the range's base, a multiple of 64. Files are never truncated or replaced
under a reader: new ones get new names, and a removal writes zeros and flips bits in place. The names of segments and
generations end with the release's MAJOR version, and a takedown moves the files that it changes to its new version's
(`dataset.formats.versions`); the index of a folder of vectors has no version.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from dataset.errors import DatasetError
from dataset.formats.json_records import from_json
from dataset.formats.release_embeddings import EmbeddingModel
from dataset.formats.releases import Release
from dataset.store.store import Store, StoreError

FORMAT = 2
RECORD = "index.json"
TRAINED, HELD_OUT = "trained.faiss", "held_out.npy"
SPEED = "speed.json"
"""What searches took when the index was finished; measured, so it differs from build to build."""
MODALITIES = ("image", "text")
KINDS = ("flat", "sq16", "rabitq", "pq128")
FRAME_ROWS = 128
BASE_STEP = 64
"""Bases of ranges are multiples of it, so that bitmaps of ranges join at bytes and words."""


class SearchIndexError(DatasetError):
    """An index cannot be built, read or searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFile:
    """A file by its path in the index's folder."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRange:
    """Lists `first_list` to below `first_list + lists`, with `rows` rows from the position `base` on."""

    first_list: int
    lists: int
    rows: int
    base: int
    facets: tuple[str, ...]
    """The rows of the bitmaps, and the columns of the counts."""
    files: Mapping[str, IndexFile]
    """By role: lists, sizes, rows, ids, numbers, texts, frames, bits, facets, domains, groups, members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSegment:
    """Rows that were added in one build; ids are within first_id to below end_id."""

    name: str
    batches: tuple[str, ...]
    rows: int
    removed: int
    first_id: int
    end_id: int
    positions: IndexFile
    ranges: tuple[IndexRange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How far a search without a filter looks."""

    probes: int
    """The most lists."""
    gap: float
    """Lists whose cosine with the query is less than that of the nearest list by more than this are left out."""
    reranked: int
    """Rows that are ranked exactly for each of the first hundred results, if the codes are not the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallRow:
    """Mean recall of held-out queries at one number of probed lists."""

    queries: str
    """images or texts."""
    selectivity: float
    """The share of rows that passes the filter; 1 without a filter."""
    probes: int
    """Lists that queries looked at, on average."""
    usual: bool
    """Whether searches look as far as this by themselves; others looked at the same number of lists for each query."""
    recall_at_1: float
    recall_at_10: float
    recall_at_100: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRecord:
    """The content of index.json."""

    format: int
    name: str
    """The release's name, or the folder's."""
    version: str
    """The release's version at the last build or refresh; '' without a release."""
    model: EmbeddingModel
    modality: str
    kind: str
    dimensions: int
    lists: int
    generation: int
    seed: int
    near: Reach
    far: Reach
    """That of queries whose cosine with the nearest centroid is below `far_below`, as that of texts is."""
    far_below: float
    trained: IndexFile
    held_out: IndexFile
    numbers: Mapping[str, str]
    """Columns of fixed width by name: a numpy type, `hexN` or `timestamp`, as dataset/index/numbers.py reads them."""
    texts: tuple[str, ...]
    """Columns in the frames."""
    categories: Mapping[str, tuple[str, ...]]
    """The values of number columns that hold positions in a list."""
    segments: tuple[IndexSegment, ...]
    recall: tuple[RecallRow, ...]

    @property
    def rows(self) -> int:
        """Number of rows that a search can find."""
        return sum(segment.rows - segment.removed for segment in self.segments)

    @property
    def files(self) -> list[IndexFile]:
        """All files except this record."""
        files = [self.trained, self.held_out, *(segment.positions for segment in self.segments)]
        return files + [file for segment in self.segments for one in segment.ranges for file in one.files.values()]

    @property
    def bytes(self) -> int:
        """Bytes of all files except this record."""
        return sum(file.bytes for file in self.files)


def index_path(model_folder: str, modality: str) -> str:
    """Return the path in the release of an index's folder."""
    return f"index/{model_folder}/{modality}"


def index_folders(release: Release) -> list[str]:
    """Return the folders in the store of a release's indexes."""
    root = release.path("index")
    found = [path.removeprefix(f"{root}/").split("/") for path in release.store.list(root)]
    return sorted(f"{root}/{path[0]}/{path[1]}" for path in found if len(path) == 3 and path[2] == RECORD)


def range_file(segment: str, role: str, at: int, ending: str, revision: int | None = None) -> str:
    """Return the path in the index's folder of a range's file."""
    number = "" if revision is None else f".{revision}"
    return f"{segment}/{role}-{at:05d}{number}.{ending}"


def read_index_record(store: Store, folder: str) -> IndexRecord:
    """Read the record of the index in a folder of a store; '' for the store's own folder.

    Raises: SearchIndexError when there is none, it is damaged, or another version of Shoal wrote it; StoreError.
    """
    path = f"{folder}/{RECORD}" if folder else RECORD
    try:
        data = store.read(path)
    except StoreError as error:
        raise SearchIndexError(
            f"There is no index in {folder or store.uri}: build one with `dataset index build`."
        ) from error
    return parse_index_record(data, path)


def parse_index_record(data: bytes, path: str = RECORD) -> IndexRecord:
    """Read index.json.

    Raises: SearchIndexError when it is damaged or of another format.
    """

    try:
        found = json.loads(data)
        if isinstance(found, dict) and found.get("format") != FORMAT:
            said = f"{path} has the format {found.get('format')}, not {FORMAT}"
            raise SearchIndexError(f"{said}: delete the index's folder, and build the index again.")
        return from_json(IndexRecord, data)
    except (ValueError, RecursionError) as error:
        raise SearchIndexError(f"{path} cannot be read ({error}): build the index again, or restore it.") from error
