"""The style of all pages, light and dark: `base.css` for every page, `report.css` for pages of charts and galleries."""

import re
from pathlib import Path

BASE = Path(__file__).with_name("base.css")
STYLE = BASE.read_text(encoding="utf-8") + Path(__file__).with_name("report.css").read_text(encoding="utf-8")
LIGHT: dict[str, str] = dict(re.findall(r"--(\w+): (#\w+)", STYLE.partition("@media")[0]))
"""The light colours by name, for pictures of plots, which have no style sheet."""
