"""The card of an index, README.md in its folder: what it was made of, its recall, and how to open it."""

from collections.abc import Mapping, Sequence
from typing import Any

from dataset.formats.index_files import IndexRecord, RecallRow

CARD = "README.md"


def render_card(record: IndexRecord, speed: Mapping[str, Any]) -> str:
    """Return the card; `speed` is the content of speed.json, {} if nothing was timed."""
    model, bytes_ = record.model, record.bytes / max(1, record.rows)
    usual = {row.queries: row.probes for row in record.recall if row.usual and row.selectivity == 1}
    probes = ", ".join(f"{name} {lists:,}" for name, lists in usual.items()) or f"up to {record.near.probes:,}"
    lines = [
        f"# kNN index of {record.name} {record.version}".rstrip(),
        "",
        f"{record.rows:,} rows of {record.dimensions} dimensions: vectors of the {record.modality}s by",
        f"{model.name or 'a model that their files do not name'}"
        + (f", weights sha256 `{model.sha256}`, configuration `{model.config_sha256}`." if model.sha256 else "."),
        "",
        "| kind | lists | lists a search looks at | bytes a row | seed |",
        "|---|---|---|---|---|",
        f"| {record.kind} | {record.lists:,} | {probes} | {bytes_:,.0f} | {record.seed} |",
        "",
        *_recall(record, speed),
        "    from dataset.index.lookup import open_index",
        "",
        '    index = open_index(".")',
        "    (hits,) = index.search(queries, 10)  # queries: (1, D) float32",
        "    index.rows(hits.ids)",
        "",
    ]
    return "\n".join(lines)


def _recall(record: IndexRecord, speed: Mapping[str, Any]) -> Sequence[str]:
    if not record.recall:
        return ["Its recall was not measured.", ""]
    took = speed.get("milliseconds", {})
    within = {ms: probes for ms, probes in speed.get("probes_within_ms", {}).items() if probes}
    return [
        "Recall: the share of the exact nearest rows that a search finds, for pictures and texts that were not trained",
        "on. Searches look as far as the first table says; the second one is for searches that set a number of lists.",
        "Milliseconds: one search on one core, in the median, on the machine that built the index.",
        "",
        "| queries | filter passes | lists, on average | recall at 1 | at 10 | at 100 |",
        "|---|---|---|---|---|---|",
        *(_usual_line(row) for row in record.recall if row.usual),
        "",
        "| queries | lists | ms | recall at 1 | at 10 | at 100 |",
        "|---|---|---|---|---|---|",
        *(_line(row, took) for row in record.recall if not row.usual),
        "",
        "Lists within a time: " + ", ".join(f"{probes:,} in {ms} ms" for ms, probes in within.items()) + "."
        if within
        else "Nothing was timed.",
        "",
    ]


def _usual_line(row: RecallRow) -> str:
    return f"| {row.queries} | {row.selectivity:.0%} | {row.probes:,} | {_recalls(row)} |"


def _line(row: RecallRow, took: Mapping[str, float]) -> str:
    ms = took.get(str(row.probes))
    shown = f"{ms:.1f}" if ms is not None else ""
    return f"| {row.queries} | {row.probes:,} | {shown} | {_recalls(row)} |"


def _recalls(row: RecallRow) -> str:
    return f"{row.recall_at_1:.4f} | {row.recall_at_10:.4f} | {row.recall_at_100:.4f}"
