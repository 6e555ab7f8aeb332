"""The section of a card about the release's kNN indexes: their kind, and the recall that was measured."""

from collections.abc import Sequence

from dataset.formats.index_files import IndexRecord, index_folders, read_index_record
from dataset.formats.releases import Release
from dataset.stats.markdown import escape


def read_indexes(release: Release) -> list[IndexRecord]:
    """Return the records of a release's indexes.

    Raises: SearchIndexError when one is damaged; StoreError.
    """
    return [read_index_record(release.store, folder) for folder in index_folders(release)]


def describe_indexes(indexes: Sequence[IndexRecord]) -> str:
    """Return the section as markdown; '' if there are no indexes."""
    if not indexes:
        return ""
    lines = [
        "## Search",
        "",
        "The folder `index/` has kNN indexes over embeddings of the pairs, for `dataset search` and `dataset serve`.",
        "",
        "| vectors | model | kind | lists | rows |",
        "|---|---|---|---|---|",
        *(
            f"| {one.modality} | {escape(one.model.name)} | {one.kind} | {one.lists:,} | {one.rows:,} |"
            for one in indexes
        ),
    ]
    recall = [(one, row) for one in indexes for row in one.recall if row.usual]
    if recall:
        lines += [
            "",
            "Recall is the share of the exact nearest rows that a search finds, for pictures and texts on which the",
            "index was not trained.",
            "",
            "| vectors | queries | filter passes | lists | recall at 1 | at 10 | at 100 |",
            "|---|---|---|---|---|---|---|",
            *(
                f"| {one.modality} | {row.queries} | {row.selectivity:.0%} | {row.probes:,} | {row.recall_at_1:.3f} | "
                f"{row.recall_at_10:.3f} | {row.recall_at_100:.3f} |"
                for one, row in recall
            ),
        ]
    return "\n".join(lines)
