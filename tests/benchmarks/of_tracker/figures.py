"""Figures are printed when they are measured, so that they are not lost if a run of hours fails later."""

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any


def tell(what: str, figures: Any) -> None:
    """Print what was measured on stderr, as one line."""
    said = figures if isinstance(figures, Mapping | float | int) else asdict(figures)
    print(f"{what}: {json.dumps(said)}", file=sys.stderr, flush=True)
