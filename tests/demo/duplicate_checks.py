"""Compares the groups that `dataset dedup` found in the demo's release with the copies that were planted."""

from collections.abc import Sequence

from dataset.formats.duplicates import KINDS, NAME
from dataset.formats.releases import FileKind, Release
from dataset.formats.side_tables import read_side_tables
from tests.demo.checks import ENOUGH, Check
from tests.demo.planting import Link

AT = 0.998
"""The cosine from which the demo's model calls pictures the same: other pictures of one scene come as near as .997."""


def check_duplicates(links: Sequence[Link], release: Release) -> list[Check]:
    """Ask whether copies have one representative, and whether only copies have another than themselves."""
    copies = {link.url: link.copies for link in links if link.copies is not None}
    of: dict[int, int | None] = {}
    for file in release.files(FileKind.DATA):
        rows = release.store.read_table(release.path(file.path), ["id", "URL"])
        urls = rows["URL"].to_pylist()
        of |= {one: copies.get(url) for one, url in zip(rows["id"].to_pylist(), urls, strict=True)}
    members = [
        (row["id"], row["representative"])
        for side in read_side_tables(release)[NAME].files
        for row in release.store.read_table(release.path(side.path), ["id", "representative", "kind"]).to_pylist()
        if row["kind"] != KINDS[0]
    ]
    published = [group for group in of.values() if group is not None]
    removable = len(published) - len(set(published))
    right = sum(of[one] is not None and of[one] == of[representative] for one, representative in members)
    recall, precision = right / max(1, removable), right / max(1, len(members))
    return [
        Check("copies have one representative", recall >= ENOUGH, f"{right} of {removable}, {recall:.1%}"),
        Check("only copies are near-duplicates", precision >= ENOUGH, f"{right} of {len(members)}, {precision:.1%}"),
    ]
