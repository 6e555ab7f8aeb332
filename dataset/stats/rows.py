"""From rows to counts: adds batches of a table to the counts of one unit (a file, or some parts)."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dataset.stats.columns import BoolArray, ColumnError, float_column, integer_column, string_column
from dataset.stats.counts import (
    ASPECT_EDGES,
    COLUMNS,
    FLOATS,
    FREQUENT,
    GRID_SIDE,
    LANGUAGE_BINS,
    MAX_VALUE,
    THRESHOLDS,
    Counts,
    IntArray,
    LanguageCounts,
)
from dataset.stats.frequent import FrequencyCounter
from dataset.stats.hashing import ByteRanges, hash_ranges, texts_of
from dataset.stats.hosts import host_hashes, host_of
from dataset.stats.hyperloglog import add_hashes

IMPLIED_LANGUAGE = {"en": "en", "nolang": ""}
"""Languages of subsets whose files have no column LANGUAGE, as in LAION's and Shoal's releases."""

MAX_LANGUAGES = 5_000
"""Each language takes 1.7 kB; CLD3 knows 107 languages. ISO 639-3 has 8,000, most of which no detector knows."""

# The quarter octave of each side in pixels. 2^(n/4) is no integer between powers of two, so no side lies on an edge.
_OCTAVE = np.floor(4 * np.log2(np.maximum(np.arange(MAX_VALUE + 1), 1))).astype(np.int64).clip(0, GRID_SIDE - 1)
_EDGES = np.array(ASPECT_EDGES)


class RowCounter:
    """Count the rows of one unit; `subset` implies the language if there is no column for it."""

    def __init__(self, subset: str = "") -> None:
        self._subset = subset
        self._counts = Counts()
        self._frequent = {name: FrequencyCounter() for name in FREQUENT}

    def add(self, batch: pa.RecordBatch, names: Mapping[str, str]) -> None:
        """Count a batch; `names` are the table's own names of those of COLUMNS that it has.

        Raises: ColumnError when a column is of another type.
        """
        counts, rows = self._counts, batch.num_rows
        counts.rows += rows
        columns = {column: batch.column(name) for column, name in names.items()}
        for column, values in columns.items():
            counts.arrays["columns"][COLUMNS.index(column)] += (rows, values.null_count, 0)
        if "URL" in columns:
            self._add_urls(string_column(columns["URL"], "URL").drop_null())
        if "TEXT" in columns:
            self._add_texts(string_column(columns["TEXT"], "TEXT").drop_null())
        if "sha256" in columns:
            strings = string_column(columns["sha256"], "sha256").drop_null()
            add_hashes(counts.distinct["sha256"], hash_ranges(ByteRanges.of(strings)))
        self._add_sizes(columns)
        similarity = np.full(rows, -1, np.int64)
        for name in FLOATS:
            if name in columns:
                bins = add_floats(counts, name, columns[name])
                similarity = bins if name == "similarity" else similarity
        self._add_languages(columns.get("LANGUAGE"), similarity)

    def finish(self) -> Counts:
        """Return the unit's counts."""
        for name, counter in self._frequent.items():
            self._counts.frequent[name] = counter.finish()
        return self._counts

    def _add_urls(self, urls: pa.Array) -> None:
        add_hashes(self._counts.distinct["URL"], hash_ranges(ByteRanges.of(urls)))
        hashes, rows = host_hashes(urls)
        add_hashes(self._counts.distinct["host"], hashes)
        self._frequent["host"].add(hashes, lambda found: [host_of(url) for url in _take(urls, rows[found])])

    def _add_texts(self, texts: pa.Array) -> None:
        ranges = ByteRanges.of(texts)
        hashes = hash_ranges(ranges)
        add_hashes(self._counts.distinct["TEXT"], hashes)
        self._frequent["TEXT"].add(hashes, lambda found: _take(texts, found))
        characters = pc.utf8_length(texts).to_numpy(zero_copy_only=False)
        _tally(self._counts.arrays["characters"], characters)
        _tally(self._counts.arrays["text_bytes"], ranges.lengths)
        self._counts.arrays["text_sums"] += (characters.sum(dtype=np.int64), ranges.lengths.sum())

    def _add_sizes(self, columns: dict[str, pa.Array]) -> None:
        sides: list[tuple[IntArray, BoolArray]] = []
        for name in ("WIDTH", "HEIGHT"):
            if name in columns:
                values, known = integer_column(columns[name], name)
                _tally(self._counts.arrays[name.lower()], values[known])
                sides.append((values.clip(0, None), known))
        if len(sides) == 2:
            known = sides[0][1] & sides[1][1]
            self._add_pairs_of_sides(sides[0][0][known], sides[1][0][known])

    def _add_pairs_of_sides(self, width: IntArray, height: IntArray) -> None:
        arrays = self._counts.arrays
        _tally(arrays["shorter"], np.minimum(width, height))
        _tally(arrays["longer"], np.maximum(width, height))
        cells = _OCTAVE[width.clip(0, MAX_VALUE)] * GRID_SIDE + _OCTAVE[height.clip(0, MAX_VALUE)]
        arrays["size_grid"] += np.bincount(cells, minlength=GRID_SIDE**2).reshape(GRID_SIDE, GRID_SIDE)
        has_area = (width > 0) & (height > 0)
        # Equal fractions give equal floats and different ones differ, as long as sides are below 2^26.
        buckets = np.searchsorted(_EDGES, width[has_area] / height[has_area], side="right")
        arrays["aspect"] += np.bincount(buckets, minlength=len(_EDGES) + 1)

    def _add_languages(self, column: pa.Array | None, similarity: IntArray) -> None:
        if column is None:
            if self._subset not in IMPLIED_LANGUAGE:
                return
            codes, languages = np.zeros(len(similarity), np.int64), [IMPLIED_LANGUAGE[self._subset]]
        else:
            encoded = string_column(column, "LANGUAGE").fill_null("").dictionary_encode()
            codes, languages = encoded.indices.to_numpy().astype(np.int64), texts_of(encoded.dictionary)
        rows = np.bincount(codes, minlength=len(languages))
        known = similarity >= 0
        steps = similarity[known] + round(FLOATS["similarity"].low * FLOATS["similarity"].steps)
        codes = codes[known]
        sums = np.bincount(codes, weights=steps, minlength=len(languages))  # exact: below 2^53
        cells = codes * LANGUAGE_BINS + (similarity[known] + 50) // 100
        bins = np.bincount(cells, minlength=len(languages) * LANGUAGE_BINS).reshape(-1, LANGUAGE_BINS)
        for at, language in enumerate(languages):
            found = LanguageCounts(int(rows[at]), int(sums[at]), bins[at])
            self._counts.languages.setdefault(language, LanguageCounts()).add(found)
        if len(self._counts.languages) > MAX_LANGUAGES:
            raise ColumnError(
                f"LANGUAGE has more than {MAX_LANGUAGES:,} values, so it does not contain languages: drop it."
            )


def add_floats(counts: Counts, name: str, column: pa.Array) -> IntArray:
    """Count the values of a column of floats, and return the bin of each row, -1 where it is unknown."""
    values, known, nans = float_column(column, name)
    spec, arrays = FLOATS[name], counts.arrays
    arrays["columns"][COLUMNS.index(name), 2] += nans
    if name in THRESHOLDS:
        # Compare in the column's own type: a float32 of 0.8 is 0.800000012, which must not count as above 0.8.
        above = values > values.dtype.type(THRESHOLDS[name])
        arrays["above"][list(THRESHOLDS).index(name)] += np.count_nonzero(above & known)
    with np.errstate(invalid="ignore", over="ignore"):  # NaN is unknown, and infinity counts at an end
        scaled = np.floor(values.astype(np.float64) * spec.steps + 0.5) - spec.low * spec.steps
        bins = np.where(known, scaled.clip(0, spec.bins - 1), -1).astype(np.int64)
    arrays[name] += np.bincount(bins[known] if not known.all() else bins, minlength=spec.bins)
    return bins


def _take(strings: pa.Array, rows: IntArray) -> list[str]:
    return texts_of(strings.take(pa.array(rows)))


def _tally(counts: IntArray, values: npt.NDArray[np.integer]) -> None:
    """Count integers per value; those beyond the array's ends count at the ends."""
    counts += np.bincount(values.clip(0, len(counts) - 1), minlength=len(counts))
