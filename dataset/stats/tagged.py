"""Counts of scores from side tables, such as the tags that heads have written: they take the place of a release's own.

A row keeps its own score where the side table has none. Saved counts are those of the data files alone.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataset.errors import said_by
from dataset.stats.counts import COLUMNS, THRESHOLDS, Counts
from dataset.stats.rows import add_floats
from dataset.stats.units import StatsError, Unit
from dataset.store.store import Store


def with_tags(store: Store, unit: Unit, counts: Counts) -> Counts:
    """Return a unit's counts with those of its side tables' scores.

    Raises: StatsError when a file is damaged; StoreError.
    """
    if not unit.tags:
        return counts
    found = Counts(rows=counts.rows)
    for score, path in unit.tags.items():
        for piece in unit.pieces:
            try:
                column = _scores(store, piece.path, path, score)
                found.arrays["columns"][COLUMNS.index(score)] += (len(column), column.null_count, 0)
                add_floats(found, score, column)
            except pa.ArrowException as error:
                raise StatsError(f"{path} cannot be counted ({said_by(error)}): get it again.") from error
    arrays = {name: array.copy() for name, array in counts.arrays.items()}
    for score in unit.tags:
        arrays[score] = found.arrays[score]
        arrays["columns"][COLUMNS.index(score)] = found.arrays["columns"][COLUMNS.index(score)]
        if score in THRESHOLDS:
            at = list(THRESHOLDS).index(score)
            arrays["above"][at] = found.arrays["above"][at]
    return Counts(counts.rows, arrays, counts.languages, counts.distinct, counts.frequent)


def _scores(store: Store, data: str, side: str, score: str) -> pa.Array:
    """Return the scores of a data file's rows, (N,) float32."""
    with store.open_input(data) as opened:
        own = score in pq.read_schema(opened).names
    rows = store.read_table(data, ["id", score] if own else ["id"])
    ids, values = rows["id"].to_numpy(), rows[score].combine_chunks() if own else pa.nulls(len(rows), pa.float32())
    tags = store.read_table(side, ["id", score])
    known, tagged = tags["id"].to_numpy(), tags[score].combine_chunks().cast(pa.float32())
    places = np.minimum(np.searchsorted(known, ids), max(0, len(known) - 1))
    given = tagged.take(pa.array(places, mask=known[places] != ids))
    return pc.coalesce(given, values.cast(pa.float32()))
