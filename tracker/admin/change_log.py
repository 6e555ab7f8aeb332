"""The log of changes, as `tracker log` shows it."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from tracker.database.database import Row


def render(entries: Sequence[Row]) -> Table:
    table = Table("when", "who", "command", "subject", "before", "after")
    for entry in entries:
        when = entry["changed_at"].strftime("%Y-%m-%d %H:%M:%S")
        who = f"{entry['who']} as {entry['login']}"
        cells = (when, who, entry["command"], entry["subject"], *_sides(entry))
        table.add_row(*map(Text, cells))
    return table


def _sides(entry: Row) -> tuple[str, str]:
    before, after = ("" if entry[side] is None else _brief(entry[side]) for side in ("before", "after"))
    return before, after


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(one)}" for key, one in value.items())
    return "none" if value is None else str(value)
