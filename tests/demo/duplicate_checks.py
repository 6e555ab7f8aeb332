"""Compares the groups that `dataset dedup` found in the demo's release with the copies that were planted."""

from collections.abc import Mapping, Sequence
from typing import Any

from dataset.formats.duplicates import KINDS, NAME
from dataset.formats.releases import FileKind, Release
from dataset.formats.side_tables import read_side_tables
from tests.demo.checks import ENOUGH, Check
from tests.demo.planting import Link

AT = 0.998
"""The cosine from which the demo's model calls pictures the same: other pictures of one scene come as near as .997."""

PDQ_FROM = 0.996
"""With near hashes. From .90 on, as for CLIP's ViTs, 15 pairs of other scenes in 1,178 pictures would be members: this
model puts one shape at one place above .90, whatever is behind it, and simple pictures' hashes differ in 40 bits.
"""


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


def check_planted(planted: Mapping[str, Any]) -> Check:
    """Ask whether the join finds the planted edits that the model places at the threshold."""
    copies = [one for one in planted["edits"] if one["is_copy"]]
    near, found = (sum(one[name] for one in copies) for name in ("at_threshold", "at_threshold_found"))
    whole, made = sum(one["found"] for one in copies), sum(one["pairs"] for one in copies)
    said = f"{found} of {near} at the threshold; {whole} of all {made}"
    return Check("planted edits are found", near > 0 and found >= ENOUGH * near, said)
