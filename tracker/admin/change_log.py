"""The log of changes, as `tracker log` shows it."""

from collections.abc import Sequence
from typing import Any

from tracker.admin.listing import Column, Listing
from tracker.database.database import Row


def render(entries: Sequence[Row]) -> Listing:
    table = Listing([Column("when"), Column("command"), Column("who"), Column("subject", shrinks=True)])
    for entry in entries:
        before, after = _sides(entry)
        table.add(
            f"{entry['changed_at']:%Y-%m-%d %H:%M:%S}", entry["command"], f"{entry['who']} as {entry['login']}",
            entry["subject"], note=f"{before} → {after}".strip(),
        )  # fmt: skip
    return table


def _sides(entry: Row) -> tuple[str, str]:
    before, after = ("" if entry[side] is None else _brief(entry[side]) for side in ("before", "after"))
    return before, after


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(one)}" for key, one in value.items())
    return "none" if value is None else str(value)
