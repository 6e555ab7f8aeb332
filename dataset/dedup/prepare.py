"""From embeddings to rows by super-cell: ids, quality, train, layout, gather.

A row's place in the order of quality lies in its data file, which is in the order of ids; its embedding lies in a
file of any order. So `ids` sorts the ids of each file of embeddings in sections by data file, `quality` answers each
section, and `layout` puts the answers back.

A batch whose embeddings are copied has them sorted on the way: `layout` writes each block of a file by super-cell, and
`gather` puts the rows of a super-cell from all blocks in their places.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.dedup.arrays import Array, in_sections, write_arrays
from dataset.dedup.candidates import rest_of
from dataset.dedup.cells import SAMPLE_PER_CELL, Cells, cell_count, train_cells, visits
from dataset.dedup.errors import DedupError
from dataset.dedup.projection import Floats, encode, train_projection, unit_rows
from dataset.dedup.quality import columns_of, quality_keys
from dataset.dedup.work import Work, nodes, round_shares
from dataset.formats.halves import widen
from dataset.formats.npy import open_rows, write_header
from dataset.formats.releases import FileKind, ReleaseFile
from dataset.formats.steps import UnitResult

Integers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

SAMPLE_ROWS = 65_536
"""Rows of a sample, at least: of these the projection is trained, and the borders between rounds are drawn."""
MIN_PAIRS = 300
"""With fewer true pairs in the sample, all of the distance counts as kept, which loses nothing."""
_KEPT_QUANTILE, _KEPT_MORE = 0.999, 0.05
_PARTNERS = 4
"""Pairs of a row that are measured, so that large groups do not decide alone."""
_ROWS_AT_ONCE = 32_768
BLOCK_ROWS = 65_536
"""Rows that are sorted by super-cell in memory: 100 MB of 768 dimensions, twice."""
_KEYS_AT_ONCE = 512
"""Rows that stay in a processor's cache meanwhile, which takes a fifth of the time."""


def mixed(ids: Integers) -> Keys:
    """Return numbers that depend on ids alone and are spread evenly over 64 bits (splitmix64)."""
    found = ids.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    found = (found ^ found >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    found = (found ^ found >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return found ^ found >> np.uint64(31)


def below_share(rows: int, wanted: int) -> np.uint64:
    """Return the number below which `wanted` of `rows` mixed ids lie, on average."""
    return np.uint64(min(2**64 - 1, int(2**64 * wanted / max(1, rows))))


def sort_ids(work: Work, batch: int, file: int) -> UnitResult:
    """Write the ids of a file of embeddings in sections by data file, and its rows that are in the sample."""
    ids = work.store.read_table(work.metadata(batch, file), ["id"])["id"].to_numpy()
    data = work.data_of(batch)
    order = np.argsort(ids, kind="stable")
    borders = np.searchsorted(ids[order], [*(one.first_id for one in data), data[-1].last_id + 1])
    arrays: dict[str, Array] = {"id": ids[order], "borders": borders}
    if batch == 0:
        picked = np.flatnonzero(mixed(ids) < _sample_below(work, batch))
        opened = open_rows(work.store, work.images(batch, file))
        pieces = [np.empty((0, opened.dimensions), opened.dtype)]
        for start in range(0, opened.rows, _ROWS_AT_ONCE):
            end = min(opened.rows, start + _ROWS_AT_ONCE)
            first, last = np.searchsorted(picked, [start, end])
            pieces.append(opened.read(start, end)[picked[first:last] - start])
        sample = {"id": ids[picked], "rows": np.concatenate(pieces).astype(np.float16)}
        write_arrays(work.store, work.path(work.plan.batches[batch].name, "sample", file), sample)
    write_arrays(work.store, work.path(work.plan.batches[batch].name, "ids", file), arrays)
    return UnitResult(len(ids), len(ids))


def rank_data_file(work: Work, batch: int, at: int) -> UnitResult:
    """Write the places in the order of quality of a data file's rows, in sections by file of embeddings."""
    ids, columns = _read_data_file(work, work.data_of(batch)[at])
    sections: dict[str, list[Array]] = {name: [] for name in (*columns, "found")}
    name = work.plan.batches[batch].name
    counts = [0]
    for file in range(len(work.plan.batches[batch].rows)):
        opened = work.open(name, "ids", file)
        start, end = opened.read("borders", at, at + 2).tolist()
        wanted = opened.read("id", start, end)
        place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
        sections["found"].append(ids[place] == wanted)
        for column, values in columns.items():
            sections[column].append(values[place])
        counts.append(counts[-1] + len(wanted))
    sampled = mixed(ids) < _sample_below(work, batch)
    arrays = {column: np.concatenate(pieces) for column, pieces in sections.items()}
    arrays |= {"borders": np.array(counts, np.int64), "sample_quality": columns["quality"][sampled]}
    write_arrays(work.store, work.path(name, "quality", at), arrays)
    return UnitResult(len(ids), counts[-1])


def _read_data_file(work: Work, data: ReleaseFile) -> tuple[Integers, dict[str, Array]]:
    """Return a data file's ids, and quality, sha256 and perhaps pdq of its rows, a row group in memory at a time."""
    options = work.options
    wanted = list(dict.fromkeys(["id", "sha256", *columns_of(options.quality)]))
    pieces: dict[str, list[Array]] = {"id": [], "quality": [], "sha256": []}
    with work.store.open_input(work.release.path(data.path)) as opened, pq.ParquetFile(opened) as file:
        for at in range(file.num_row_groups):
            rows = file.read_row_group(at, columns=wanted, use_threads=False)
            pieces["id"].append(rows["id"].to_numpy())
            pieces["quality"].append(quality_keys(rows, options.quality))
            pieces["sha256"].append(_first_bytes(rows["sha256"]))
    columns = {name: np.concatenate(found) for name, found in pieces.items()}
    if options.with_pdq:
        columns["pdq"] = _pdq_of(work, data)
    return columns.pop("id"), columns


def train(work: Work) -> UnitResult:
    """Write the parameters, unless an earlier batch has given them, and the borders between the new batches' rounds."""
    trained = 0
    if work.plan.new_from == 0:
        trained = _train_parameters(work)
    for batch in range(work.plan.new_from, len(work.plan.batches)):
        plan = work.plan.batches[batch]
        drawn = np.sort(
            np.concatenate(
                [work.open(plan.name, "quality", at).read("sample_quality") for at in range(len(work.data_of(batch)))]
            )
        )
        own = plan.rounds - 1
        at = round_shares(own) * len(drawn) >> (own - 1)
        write_arrays(work.store, work.path(plan.name, "borders"), {"quality": drawn[at]})
    return UnitResult(trained, trained)


def _train_parameters(work: Work) -> int:
    plan = work.plan.batches[0]
    opened = [work.open(plan.name, "sample", file) for file in range(len(plan.rows))]
    mixes = mixed(np.concatenate([one.read("id") for one in opened]))
    place = np.empty(len(mixes), np.int64)
    place[np.argsort(mixes, kind="stable")] = np.arange(len(mixes))
    sample = np.empty((len(mixes), opened[0].read("rows").shape[1]), np.float16)
    start = 0
    for one in opened:
        rows = one.read("rows")
        sample[place[start : start + len(rows)]] = rows
        start += len(rows)
    try:
        unit_rows(sample[:1])
        projection = train_projection(sample[:SAMPLE_ROWS])
        codes = widen(encode(sample, projection))
    except DedupError as error:
        raise DedupError(f"In a sample of embeddings/{work.options.model}, {error}") from error
    cells = train_cells(
        codes, work.options.cells or cell_count(sum(plan.rows)), work.plan.super_cells, work.options.gap
    )
    kept, pairs = _measure_kept(sample, codes, cells, work.options.candidates_from)
    arrays = cells.arrays() | {"projection": projection, "kept": np.array([kept, pairs], np.float64)}
    write_arrays(work.store, work.path("parameters"), arrays)
    return len(sample)


def _measure_kept(sample: Array, codes: Floats, cells: Cells, cosine: float) -> tuple[float, int]:
    """Return the share of the squared distance that codes keep in nearly all true pairs of a sample, and the pairs."""
    home, _, _ = visits(codes, cells, 0.0)
    order = np.argsort(home, kind="stable")
    left, right = [], []
    for rows in np.split(order, np.flatnonzero(np.diff(home[order])) + 1):
        products = np.triu(codes[rows] @ codes[rows].T, 1)
        for at, row in enumerate(products):
            partners = np.flatnonzero(row >= cosine - 2.0**-10)
            if len(partners):
                chosen = partners[:: max(1, len(partners) // _PARTNERS)][:_PARTNERS]
                left.append(np.full(len(chosen), rows[at]))
                right.append(rows[chosen])
    if not left:
        return 1.0, 0
    shares = _shares(sample, codes, np.concatenate(left), np.concatenate(right), cosine)
    if len(shares) < MIN_PAIRS:
        return 1.0, len(shares)
    return min(1.0, round(float(np.quantile(shares, _KEPT_QUANTILE)) + _KEPT_MORE, 3)), len(shares)


def _shares(sample: Array, codes: Floats, a: Integers, b: Integers, cosine: float) -> npt.NDArray[np.float64]:
    found = []
    for start in range(0, len(a), _ROWS_AT_ONCE // 4):
        some = slice(start, start + _ROWS_AT_ONCE // 4)
        away = unit_rows(sample[a[some]]) - unit_rows(sample[b[some]])
        whole = np.einsum("nd,nd->n", away, away)
        short = codes[a[some]] - codes[b[some]]
        kept = np.einsum("nd,nd->n", short, short)
        near = (whole <= 2 * (1 - cosine)) & (whole > 1e-3)
        found.append(kept[near].astype(np.float64) / whole[near])
    return np.concatenate(found)


def read_cells(work: Work) -> Cells:
    """Return the cells of the parameters."""
    opened = work.open("parameters")
    return Cells(*(opened.read(name) for name in ("top", "below", "starts", "super_starts")))


def lay_out(work: Work, batch: int, file: int) -> UnitResult:
    """Write the codes, homes and visits of a file's rows, in sections by super-cell."""
    plan = work.plan.batches[batch]
    cells, projection = read_cells(work), work.open("parameters").read("projection")
    opened = open_rows(work.store, work.images(batch, file))
    ids = work.store.read_table(work.metadata(batch, file), ["id"])["id"].to_numpy()
    columns, found = _answers(work, batch, file, ids)
    codes = np.empty((len(ids), projection.shape[1] + 1), np.float16)
    keys = np.empty(len(ids), np.uint64)
    for start in range(0, opened.rows, _ROWS_AT_ONCE):
        end = min(opened.rows, start + _ROWS_AT_ONCE)
        block = opened.read(start, end)
        keys[start:end] = _row_keys(block)
        alive = np.flatnonzero(found[start:end])
        try:
            codes[start + alive] = encode(block[alive], projection)
        except DedupError as error:
            raise DedupError(f"In {work.images(batch, file)}, rows {start} to {end - 1}, {error}") from error
    alive = np.flatnonzero(found)
    home, visiting, visited = visits(widen(codes[alive]), cells, work.options.gap)
    order, offsets = in_sections(cells.super_cell_of(home), work.plan.super_cells)
    place = np.empty(len(alive), np.int64)
    place[order] = np.arange(len(alive)) - np.repeat(offsets[:-1], np.diff(offsets))
    visit_order, visit_offsets = in_sections(cells.super_cell_of(home[visiting]), work.plan.super_cells)
    chosen = alive[order]
    row = chosen + sum(plan.rows[:file])
    arrays = {"id": ids[chosen], "row": row, "key": keys[chosen], "cell": home[order].astype(np.uint32),
              "code": codes[chosen], "offsets": offsets, "visitor": place[visiting][visit_order].astype(np.uint32),
              "visited": visited[visit_order].astype(np.uint32), "visit_offsets": visit_offsets}  # fmt: skip
    arrays |= {name: values[chosen] for name, values in columns.items()}
    if plan.copied:
        _sort_blocks(work, batch, file, chosen, cells.super_cell_of(home[order]))
    write_arrays(work.store, work.path(plan.name, "layout", file), arrays)
    return UnitResult(len(ids), len(alive))


def _sort_blocks(work: Work, batch: int, file: int, chosen: Integers, supers: Integers) -> None:
    """Write the embeddings of a file's rows `chosen`, which are ordered by their super-cells, in blocks."""
    opened = open_rows(work.store, work.images(batch, file))
    for block, start in enumerate(range(0, opened.rows, BLOCK_ROWS)):
        end = min(opened.rows, start + BLOCK_ROWS)
        here = np.flatnonzero((chosen >= start) & (chosen < end))
        arrays = {"rows": opened.read(start, end)[chosen[here] - start],
                  "offsets": np.searchsorted(supers[here], np.arange(work.plan.super_cells + 1))}  # fmt: skip
        write_arrays(work.store, work.path(work.plan.batches[batch].name, "copied", f"{file}.{block}"), arrays)


def _answers(work: Work, batch: int, file: int, ids: Integers) -> tuple[dict[str, Array], npt.NDArray[np.bool_]]:
    """Return what the data files say of a file's rows, in its order, and which of these are in the release."""
    name, order = work.plan.batches[batch].name, np.argsort(ids, kind="stable")
    opened = [work.open(name, "quality", at) for at in range(len(work.data_of(batch)))]
    borders = work.open(name, "ids", file).read("borders")
    inside = order[borders[0] : borders[-1]]

    def gathered(column: str) -> Array:
        pieces = np.concatenate([one.section(column, file, "borders") for one in opened])
        values = np.zeros((len(ids), *pieces.shape[1:]), pieces.dtype)
        values[inside] = pieces
        return values

    columns = ("quality", "sha256", *(["pdq"] if work.options.with_pdq else []))
    return {column: gathered(column) for column in columns}, gathered("found")


def gather(work: Work, batch: int, super_cell: int) -> UnitResult:
    """Write the rows of a super-cell by round and cell; of rows with equal embeddings, only the best is compared."""
    plan = work.plan.batches[batch]
    pieces: dict[str, list[Array]] = {}
    visitors, visited, count = [], [], 0
    names = ("id", "row", "key", "cell", "code", "quality", "sha256", *(["pdq"] if work.options.with_pdq else []))
    for file in range(len(plan.rows)):
        opened = work.open(plan.name, "layout", file)
        for name in names:
            pieces.setdefault(name, []).append(opened.section(name, super_cell, "offsets"))
        visitors.append(opened.section("visitor", super_cell, "visit_offsets").astype(np.int64) + count)
        visited.append(opened.section("visited", super_cell, "visit_offsets"))
        count += len(pieces["id"][-1])
    rows = {name: np.concatenate(found) for name, found in pieces.items()}
    del pieces
    borders = work.open(plan.name, "borders").read("quality")
    rounds = np.searchsorted(borders, rows["quality"], "right")
    order = np.lexsort((rows["id"], rows["quality"], rows["cell"], rounds))
    leader = _leaders_of_equals(work, batch, super_cell, rows, order)
    alone = leader < 0
    kept = order[alone[order]]
    place = np.full(len(rows["id"]), -1, np.int64)
    place[kept] = np.arange(len(kept))
    own = (leader >> 48 == batch) & ~alone
    leader[own] = nodes(batch, super_cell, place[leader[own] & 0xFFFFFFFF])
    equal = order[~alone[order]]
    if plan.copied:
        ordered = np.concatenate([kept, equal])
        _copy_rows(work, batch, super_cell, rows["row"], ordered)
        rows["row"][ordered] = nodes(0, super_cell, np.arange(len(ordered)))
    visiting, where = place[np.concatenate(visitors)], np.concatenate(visited)
    where, visiting = where[visiting >= 0], visiting[visiting >= 0]
    by_place = np.lexsort((where, visiting))
    visiting, where = visiting[by_place], where[by_place]
    cells = read_cells(work)
    visit_order, visit_offsets = in_sections(cells.super_cell_of(where), work.plan.super_cells)
    arrays: dict[str, Array] = {name: rows[name][kept] for name in names}
    arrays["rest"] = rest_of(arrays["code"])
    arrays["starts"] = np.searchsorted(rounds[kept], np.arange(plan.rounds + 1))
    arrays |= {"visitor": visiting[visit_order].astype(np.uint32), "visited": where[visit_order],
               "visit_offsets": visit_offsets, "equal_id": rows["id"][equal], "equal_row": rows["row"][equal],
               "equal_sha256": rows["sha256"][equal], "equal_leader": leader[equal]}  # fmt: skip
    write_arrays(work.store, work.path(plan.name, "home", super_cell), arrays)
    return UnitResult(len(rows["id"]), len(kept))


def _copy_rows(work: Work, batch: int, super_cell: int, rows: Integers, order: Integers) -> None:
    """Write the embeddings of a super-cell, whose numbers in the batch's files are rows[order]."""
    plan = work.plan.batches[batch]
    starts = np.cumsum([0, *plan.rows])
    blocks = [(file, block) for file, count in enumerate(plan.rows) for block in range(-(-count // BLOCK_ROWS))]
    firsts = np.array([starts[file] + block * BLOCK_ROWS for file, block in blocks])
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    by_block = np.argsort(np.searchsorted(firsts, rows, "right"), kind="stable")  # in a block they keep their order
    copy = np.empty((len(order), work.open("parameters").rows("projection")), np.float16)
    done = 0
    for file, block in blocks:
        some = work.open(plan.name, "copied", f"{file}.{block}").section("rows", super_cell, "offsets")
        copy[place[by_block[done : done + len(some)]]] = some
        done += len(some)
    with work.store.write(work.copy(batch, super_cell)) as target:
        write_header(target, *copy.shape)
        target.write(copy.data)


def _leaders_of_equals(work: Work, batch: int, super_cell: int, rows: dict[str, Array], order: Integers) -> Integers:
    """Return the node of an equal row that is better, with the number in `rows` for one of this batch; -1: none is."""
    found = np.full(len(order), -1, np.int64)
    ranked = np.lexsort((rows["id"], rows["quality"]))
    keys = rows["key"][ranked]
    by_key = np.argsort(keys, kind="stable")
    _, first, back = np.unique(keys[by_key], return_index=True, return_inverse=True)
    best = ranked[by_key[first]][back]
    mine = ranked[by_key]
    worse = mine != best
    found[mine[worse]] = nodes(batch, super_cell, best[worse])
    for earlier in reversed(range(batch)):
        known = work.home(earlier, super_cell).read("key")
        if not len(known):
            continue
        sort = np.argsort(known, kind="stable")
        at = np.minimum(np.searchsorted(known[sort], rows["key"]), len(known) - 1)
        equal = known[sort][at] == rows["key"]
        found[equal] = nodes(earlier, super_cell, sort[at[equal]])
    return found


def _sample_below(work: Work, batch: int) -> np.uint64:
    rows = sum(work.plan.batches[batch].rows)
    cells = work.options.cells or cell_count(rows)
    return below_share(rows, max(SAMPLE_ROWS, SAMPLE_PER_CELL * cells if batch == 0 else 0))


def _row_keys(block: Array) -> Keys:
    """Return a number for each row that equal rows share (multiply and add, by random odd numbers)."""
    halves = np.ascontiguousarray(block, np.float16).view(np.uint16)
    width = -(-halves.shape[1] // 4)
    draw = np.random.default_rng(0).integers(0, 2**63, width, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    found = np.empty(len(halves), np.uint64)
    for start in range(0, len(halves), _KEYS_AT_ONCE):
        some = halves[start : start + _KEYS_AT_ONCE]
        padded = np.zeros((len(some), width * 4), np.uint16)
        padded[:, : some.shape[1]] = some
        words = padded.view(np.uint64)
        words ^= words >> np.uint64(29)
        words *= draw
        found[start : start + len(some)] = words.sum(axis=1, dtype=np.uint64)
    return found


def _first_bytes(column: pa.ChunkedArray) -> Keys:
    """Return the first 8 bytes of digests in hex -> (N,) uint64; 0 for null."""
    texts = [bytes.fromhex(text[:16]) if text else bytes(8) for text in column.to_pylist()]
    return np.frombuffer(b"".join(texts), ">u8").astype(np.uint64)


def _pdq_of(work: Work, data: ReleaseFile) -> Array:
    """Return the PDQ hashes of a data file's rows -> (N, 32) uint8.

    Raises: DedupError when the release has none.
    """
    for file in work.release.files(FileKind.EXTENDED, subset=data.subset, batch=data.batch):
        if file.first_id == data.first_id:
            column = work.store.read_table(work.release.path(file.path), ["pdq"])["pdq"].to_pylist()
            joined = b"".join(one or bytes(32) for one in column)
            return np.frombuffer(joined, np.uint8).reshape(-1, 32)
    raise DedupError(f"{work.release.record.name} has no extended file for {data.path}: leave out --with-pdq.")
