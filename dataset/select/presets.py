"""Presets: selections that others have made from similar datasets, as data."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from dataset.select.errors import SelectError


@dataclass(frozen=True, slots=True)
class Preset:
    """The meaning of a preset's name."""

    about: str
    where: str
    top_share: float | None = None


@lru_cache(1)
def presets() -> dict[str, Preset]:
    """Return the presets by name."""
    read = tomllib.loads(files("dataset.select").joinpath("presets.toml").read_text(encoding="utf-8"))
    return {name: Preset(**values) for name, values in read.items()}


def apply_presets(names: Sequence[str], where: str | None, top_share: float | None) -> tuple[str, float | None]:
    """Return the expression and the share of a user's options and presets together.

    Raises: SelectError for an unknown preset.
    """
    conditions = [where] if where else []
    for name in names:
        preset = presets().get(name)
        if preset is None:
            raise SelectError(f"There is no preset {name}, only {', '.join(presets())}.")
        conditions.append(preset.where)
        top_share = preset.top_share if top_share is None else top_share
    joined = " AND ".join(f"({one}\n)" for one in conditions) if len(conditions) > 1 else "".join(conditions)
    return joined or "TRUE", top_share
