"""The figures of `dataset stats`, computed by DuckDB, with which tests and the benchmark compare."""

from typing import Any

import duckdb

from dataset.stats.counts import COLUMNS, DISTINCT, FLOATS, THRESHOLDS
from dataset.stats.figures import (
    ASPECT_NAMES,
    AT_LEAST,
    AT_MOST,
    HISTOGRAM_BINS,
    PERCENTILES,
    SIZE_RANGES,
    TEXT_RANGES,
    share,
)

PERCENTS = "[" + ", ".join(f"{percent / 100:.2f}" for percent in PERCENTILES) + "]"
HOST = r"lower(regexp_extract(URL, '^https?://([^/?#:]+)', 1))"
QUANTITIES = {"width": "WIDTH", "height": "HEIGHT", "characters": "length(TEXT)", "text_bytes": "strlen(TEXT)"}
KNOWN_SIZE = "WIDTH IS NOT NULL AND HEIGHT IS NOT NULL"


def duckdb_figures(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, Any]:
    """Return the figures of a table function such as read_parquet('*.parquet'), with the shape of `all_figures`."""
    row = _scalars(connection, source)
    total = row["rows"]
    figures: dict[str, Any] = {
        "rows": total,
        "columns": {
            name: {"rows": total, "null": row[f"null {name}"], "nan": row.get(f"nan {name}", 0)}
            for name in COLUMNS
            if f"null {name}" in row
        },
        "sizes": {
            "known": row["known size"],
            **{
                kind: {str(side): _with_share(row[f"{kind} {side}"], row["known size"]) for side in sides}
                for kind, sides in (
                    ("both_at_least", AT_LEAST),
                    ("either_at_least", AT_LEAST),
                    ("both_at_most", AT_MOST),
                    ("either_at_most", AT_MOST),
                )
            },
        },
        "width": {**_integers(row, "width"), "ranges": _ranges(row, "width", SIZE_RANGES)},
        "height": {**_integers(row, "height"), "ranges": _ranges(row, "height", SIZE_RANGES)},
        "text": {
            "characters": {
                **_integers(row, "characters"),
                "mean": round(row["sum characters"] / row["known characters"], 2),
                "ranges": _ranges(row, "characters", TEXT_RANGES),
                "at_least_100": _with_share(row["characters at least 100"], row["known characters"]),
            },
            "bytes": {
                **_integers(row, "text_bytes"),
                "mean": round(row["sum text_bytes"] / row["known text_bytes"], 2),
            },
        },
        "unsafe": _above(row, "punsafe"),
        "watermark": _above(row, "pwatermark"),
        **{name: _floats(connection, source, row, name) for name in FLOATS},
        "aspect": _aspect(connection, source),
        "size_grid": _size_grid(connection, source),
        "languages": _languages(connection, source),
        "captions": _frequent(connection, source, "TEXT"),
        "hosts": _frequent(connection, source, HOST),
        "distinct": {name: row[f"distinct {name}"] for name in DISTINCT if f"distinct {name}" in row},
    }
    return figures


def _scalars(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, Any]:
    """Compute all that one pass can."""
    types = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()}
    wanted = {"rows": "count(*)"}
    for name in COLUMNS:
        if name in types:
            wanted[f"null {name}"] = f"count(*) - count({name})"
    wanted["known size"] = f"count(*) FILTER ({KNOWN_SIZE})"
    for side in AT_LEAST:
        wanted[f"both_at_least {side}"] = f"count(*) FILTER (WIDTH >= {side} AND HEIGHT >= {side})"
        wanted[f"either_at_least {side}"] = (
            f"count(*) FILTER (({KNOWN_SIZE}) AND (WIDTH >= {side} OR HEIGHT >= {side}))"
        )
    for side in AT_MOST:
        wanted[f"both_at_most {side}"] = f"count(*) FILTER (WIDTH <= {side} AND HEIGHT <= {side})"
        wanted[f"either_at_most {side}"] = f"count(*) FILTER (({KNOWN_SIZE}) AND (WIDTH <= {side} OR HEIGHT <= {side}))"
    for name, value in QUANTITIES.items():
        wanted[f"known {name}"] = f"count({value})"
        wanted[f"quantiles {name}"] = (
            f"quantile_disc(CASE WHEN {value} > 65535 THEN 65535 ELSE {value} END, {PERCENTS})"
        )
        wanted[f"sum {name}"] = f"sum({value})"
    for name, edges in (("width", SIZE_RANGES), ("height", SIZE_RANGES), ("characters", TEXT_RANGES)):
        for low, high in zip(edges, [*edges[1:], 2**31], strict=True):
            value = QUANTITIES[name]
            wanted[f"{name} from {low}"] = f"count(*) FILTER ({value} >= {low} AND {value} < {high})"
    wanted["characters at least 100"] = "count(*) FILTER (length(TEXT) >= 100)"
    for name in FLOATS:
        step = _step(name)
        wanted[f"nan {name}"] = f"count(*) FILTER (isnan({name}))"
        wanted[f"known {name}"] = f"count({step})"
        wanted[f"quantiles {name}"] = f"quantile_disc({step}, {PERCENTS})"
        wanted[f"min {name}"], wanted[f"max {name}"] = f"min({step})", f"max({step})"
        wanted[f"mean {name}"] = f"avg({step})"
    for name, threshold in THRESHOLDS.items():
        wanted[f"above {name}"] = f"count(*) FILTER ({name} > {threshold}::{types[name]} AND NOT isnan({name}))"
    wanted |= {
        f"distinct {name}": f"approx_count_distinct({name})" for name in ("URL", "TEXT", "sha256") if name in types
    }
    wanted["distinct host"] = f"approx_count_distinct({HOST})"
    cursor = connection.execute(f"SELECT {', '.join(wanted.values())} FROM {source}")
    values = cursor.fetchone()
    assert values is not None
    return dict(zip(wanted, values, strict=True))


def _step(name: str) -> str:
    """Return the SQL of a float at the nearest step of its column, NaN as NULL."""
    spec = FLOATS[name]
    low, high = spec.low * spec.steps, spec.high * spec.steps
    step = f"greatest({low}, least({high}, floor({name}::DOUBLE * {spec.steps} + 0.5)))"
    return f"CASE WHEN {name} IS NULL OR isnan({name}) THEN NULL ELSE {step} END::INTEGER"


def _integers(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {"known": row[f"known {name}"], "quantiles": _quantiles(row[f"quantiles {name}"])}


def _quantiles(values: list[Any]) -> dict[str, Any]:
    return {f"{percent / 100:.2f}": value for percent, value in zip(PERCENTILES, values, strict=True)}


def _ranges(row: dict[str, Any], name: str, edges: tuple[int, ...]) -> list[dict[str, Any]]:
    return [
        {"from": low, "to": high, **_with_share(row[f"{name} from {low}"], row[f"known {name}"])}
        for low, high in zip(edges, [*edges[1:], None], strict=True)
    ]


def _with_share(rows: int, known: int) -> dict[str, Any]:
    return {"rows": rows, "share": share(rows, known)}


def _above(row: dict[str, Any], name: str) -> dict[str, Any]:
    known = row[f"known {name}"]
    return {"above": THRESHOLDS[name], "known": known, **_with_share(row[f"above {name}"], known)}


def _floats(connection: duckdb.DuckDBPyConnection, source: str, row: dict[str, Any], name: str) -> dict[str, Any]:
    spec, width = FLOATS[name], HISTOGRAM_BINS[name]
    digits = {10_000: 4, 1_000: 3}[spec.steps]
    per_bin, last = round(width * spec.steps), round((spec.high - spec.low) / width) - 1
    place = f"least({last}, floor(({_step(name)} - {spec.low * spec.steps}) / {per_bin}))::INTEGER"
    histogram = connection.execute(
        f"SELECT {place} AS bin, count(*) FROM {source} "
        f"WHERE {name} IS NOT NULL AND NOT isnan({name}) GROUP BY 1 ORDER BY 1"
    ).fetchall()
    return {
        "known": row[f"known {name}"],
        "min": row[f"min {name}"] / spec.steps,
        "max": row[f"max {name}"] / spec.steps,
        "mean": round(row[f"mean {name}"] / spec.steps, digits),
        "quantiles": _quantiles([value / spec.steps for value in row[f"quantiles {name}"]]),
        "histogram": [{"from": round(spec.low + at * width, 2), "rows": rows} for at, rows in histogram],
    }


def _aspect(connection: duckdb.DuckDBPyConnection, source: str) -> list[dict[str, Any]]:
    cases = " ".join(
        f"WHEN WIDTH::BIGINT * {name.split(':')[1]} < HEIGHT::BIGINT * {name.split(':')[0]} THEN {at}"
        for at, name in enumerate(ASPECT_NAMES)
    )
    found = dict(
        connection.execute(
            f"SELECT CASE {cases} ELSE {len(ASPECT_NAMES)} END, count(*) FROM {source} "
            "WHERE WIDTH > 0 AND HEIGHT > 0 GROUP BY 1"
        ).fetchall()
    )
    names = [None, *ASPECT_NAMES, None]
    known = sum(found.values())
    return [
        {"from": names[at], "to": names[at + 1], **_with_share(found.get(at, 0), known)} for at in range(len(names) - 1)
    ]


def _size_grid(connection: duckdb.DuckDBPyConnection, source: str) -> list[list[int]]:
    octave = "floor(4 * log2(greatest(1, least(65535, {}))))::INTEGER"
    return [
        list(cell)
        for cell in connection.execute(
            f"SELECT {octave.format('WIDTH')}, {octave.format('HEIGHT')}, count(*) FROM {source} "
            f"WHERE {KNOWN_SIZE} GROUP BY 1, 2 ORDER BY 1, 2"
        ).fetchall()
    ]


def _languages(connection: duckdb.DuckDBPyConnection, source: str) -> list[dict[str, Any]]:
    step = _step("similarity")
    hundredth = f"floor(({step} + 10050) / 100)::INTEGER - 100"
    rows = connection.execute(
        f"SELECT coalesce(LANGUAGE, '') AS language, count(*) AS n, avg({step}), "
        f"quantile_disc({hundredth}, [0.1, 0.5, 0.9]) FROM {source} GROUP BY 1 ORDER BY n DESC, language"
    ).fetchall()
    whole = sum(row[1] for row in rows)
    return [
        {
            "language": language or None,
            **_with_share(count, whole),
            "similarity": {
                "mean": None if mean is None else round(mean / 10_000, 4),
                **{
                    name: None if quantiles is None else quantiles[at] / 100
                    for at, name in enumerate(("0.10", "0.50", "0.90"))
                },
            },
        }
        for language, count, mean, quantiles in rows
    ]


def _frequent(connection: duckdb.DuckDBPyConnection, source: str, value: str) -> list[tuple[str, int]]:
    """Return the most frequent values, ties in any order."""
    return connection.execute(
        f"SELECT {value} AS v, count(*) AS n FROM {source} WHERE URL IS NOT NULL AND v IS NOT NULL AND v <> '' "
        "GROUP BY 1 ORDER BY n DESC LIMIT 100"
    ).fetchall()
