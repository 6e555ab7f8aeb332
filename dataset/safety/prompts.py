"""The safety drop: samples that must not be in any dataset, told by the model's own embeddings and reviewed prompts.

The wordings and the rule are data: one TOML file a version, which says itself how it is read (`safety_1.toml`).
Invariant: labels are looked up by name and prompts belong to their label, so no order of a list means anything, and no
text can slip from one category into the next. (In the original a missing comma did just that.)

The rule is judged by the picture and by the caption, each on its own; either suffices. Source: LAION-5B's filter, which
drops what is sexual together with minors or animals; there by fixed places in one list, and by the picture alone.
"""

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dataset.errors import DatasetError
from dataset.formats.parts import Verdict
from dataset.recipe.recipe import STORE_PREFIX, ModelRole
from dataset.recipe.tags import SafetyRecipe
from dataset.store.local_paths import is_file
from dataset.store.store import Store

Rows = npt.NDArray[np.float32]

BUILTIN_PREFIX = "builtin:"
BUILTIN_LANGUAGE = "en"
REASONS = (Verdict.UNSAFE_MINOR, Verdict.UNSAFE_ANIMAL, Verdict.UNSAFE)


class SafetyError(DatasetError):
    """The safety prompts cannot be read, or do not say what they must."""


class EmbedsTexts(Protocol):
    """What a model must be able to do here."""

    def embed_texts(self, texts: Sequence[str], /) -> Rows:
        """Embed texts, (N, D) float32 unit rows."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A question: nearer to one of the labels in `concern` than to any in `ordinary`, by `margin` of cosine?"""

    concern: tuple[str, ...]
    ordinary: tuple[str, ...]
    margin: float


@dataclass(frozen=True, slots=True)
class Rule:
    """Drops a sample for `reason` when all its `axes` hold."""

    reason: Verdict
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SafetyPrompts:
    """A version of the prompts: `labels` to languages to texts, and the sha256 of the file that said so."""

    version: int
    labels: Mapping[str, Mapping[str, tuple[str, ...]]]
    axes: Mapping[str, Axis]
    rules: tuple[Rule, ...]
    sha256: str

    def texts(self, label: str, role: ModelRole) -> tuple[str, ...]:
        """Return a label's prompts for a role's model: English ones for the English model, all for the other."""
        by_language = self.labels[label]
        if role is ModelRole.EN:
            return by_language[BUILTIN_LANGUAGE]
        return tuple(text for texts in by_language.values() for text in texts)


def read_safety_prompts(recipe: SafetyRecipe, store: Store) -> SafetyPrompts | None:
    """Read the prompts that a recipe names, None when it names none.

    Raises: SafetyError when they are not there or cannot be used; StoreError.
    """
    if recipe.prompts is None:
        return None
    if recipe.prompts.startswith(BUILTIN_PREFIX):
        path = Path(__file__).with_name(f"prompts_{recipe.prompts.removeprefix(BUILTIN_PREFIX)}.toml")
        if not is_file(path):
            raise SafetyError(
                f"This version of Shoal has no safety prompts {recipe.prompts}: use the version that the run has."
            )
        return parse_safety_prompts(path.read_bytes())
    if recipe.prompts.startswith(STORE_PREFIX):
        return parse_safety_prompts(store.read(recipe.prompts.removeprefix(STORE_PREFIX)))
    try:
        return parse_safety_prompts(Path(recipe.prompts).read_bytes())
    except OSError as error:
        raise SafetyError(
            f"The safety prompts {recipe.prompts} cannot be read ({error.strerror}): name another file."
        ) from error


def parse_safety_prompts(data: bytes) -> SafetyPrompts:
    """Parse a file of prompts, and hold its names against one another.

    Raises: SafetyError when a name has nothing behind it, a label has no English prompt, or a rule cannot be kept.
    """
    try:
        said = tomllib.loads(data.decode("utf-8"))
        labels = {
            label: {language: _texts(texts) for language, texts in by_language.items()}
            for label, by_language in said["labels"].items()
        }
        axes = {
            name: Axis(_texts(axis["concern"]), _texts(axis["ordinary"]), float(axis["margin"]))
            for name, axis in said["axes"].items()
        }
        rules = tuple(Rule(Verdict(rule["reason"]), _texts(rule["all"])) for rule in said["rules"])
        prompts = SafetyPrompts(int(said["version"]), labels, axes, rules, hashlib.sha256(data).hexdigest())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SafetyError(f"The safety prompts cannot be read ({error!r}): write them as safety_1.toml is.") from error
    _refuse_loose_ends(prompts)
    return prompts


def _texts(value: Any) -> tuple[str, ...]:
    """Give a list of texts as such: a text alone would be taken apart into its letters."""
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise ValueError(f"{value!r} is no list of texts")
    return tuple(value)


def _refuse_loose_ends(prompts: SafetyPrompts) -> None:
    """Hold labels, axes and rules against one another."""
    _refuse_loose_axes(prompts)
    for label, by_language in prompts.labels.items():
        if BUILTIN_LANGUAGE not in by_language:
            raise SafetyError(f"The safety label {label} has no prompts in {BUILTIN_LANGUAGE}: write some.")
    for rule in prompts.rules:
        if rule.reason not in REASONS:
            raise SafetyError(f"A safety rule drops for {rule.reason}: give one of {', '.join(REASONS)}.")
        for axis_name in rule.axes:
            if axis_name not in prompts.axes:
                raise SafetyError(f"The safety rule for {rule.reason} names no axis {axis_name}: write it, or drop it.")


def _refuse_loose_axes(prompts: SafetyPrompts) -> None:
    for name, axis in prompts.axes.items():
        for label in (*axis.concern, *axis.ordinary):
            if label not in prompts.labels:
                raise SafetyError(f"The safety axis {name} names the label {label}, which has no prompts: write some.")
        if set(axis.concern) & set(axis.ordinary):
            raise SafetyError(f"The safety axis {name} has a label on both sides: take it from one.")
        if not -2 <= axis.margin <= 2:
            raise SafetyError(f"The safety axis {name} has margin {axis.margin}, no such difference: give -2 to 2.")


class SafetyJudge:
    """The prompts as one model embeds them."""

    def __init__(self, prompts: SafetyPrompts, role: ModelRole, model: EmbedsTexts) -> None:
        self.prompts = prompts
        used = sorted({label for axis in prompts.axes.values() for label in (*axis.concern, *axis.ordinary)})
        self._embedded: dict[str, Rows] = {label: model.embed_texts(prompts.texts(label, role)) for label in used}

    def drops(self, image_features: Rows, text_features: Rows) -> list[Verdict | None]:
        """Say for each of N samples why it must be dropped, None when it may stay; both (N, D) float32 unit rows.

        The first rule that holds gives the reason.
        """
        if not len(image_features):
            return []
        holds = {
            name: self._holds(axis, image_features) | self._holds(axis, text_features)
            for name, axis in self.prompts.axes.items()
        }
        reasons: list[Verdict | None] = [None] * len(image_features)
        for rule in reversed(self.prompts.rules):
            dropped = np.logical_and.reduce([holds[axis] for axis in rule.axes])  # (N,)
            for place in np.flatnonzero(dropped).tolist():
                reasons[place] = rule.reason
        return reasons

    def _holds(self, axis: Axis, features: Rows) -> npt.NDArray[np.bool_]:
        """Ask an axis of N embeddings, (N,)."""
        return np.asarray(self._nearest(axis.concern, features) - self._nearest(axis.ordinary, features) >= axis.margin)

    def _nearest(self, labels: Sequence[str], features: Rows) -> Rows:
        """Return the cosine of the nearest prompt under any of the labels, (N,)."""
        nearest: Rows = np.max([(features @ self._embedded[label].T).max(axis=1) for label in labels], axis=0)
        return nearest
