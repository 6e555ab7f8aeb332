"""Safety prompts: detect samples that must not be in any dataset, by the model's own embeddings and reviewed texts.

Texts and rules are data: one TOML file per version, which explains how it is applied (`prompts_1.toml`). Invariant:
labels are looked up by name and prompts belong to a label, so the order of a list never matters, and no text can move
from one category to another (in the original worker, a missing comma merged two prompts).

Picture and caption are judged separately; either is sufficient. Source: LAION-5B's filter, which drops sexual content
with minors or animals, by positions in one list and by the picture alone.
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
    """The safety prompts cannot be read, or are incomplete."""


class EmbedsTexts(Protocol):
    """The part of a model that this module needs."""

    def embed_texts(self, texts: Sequence[str], /) -> Rows:
        """Return the embeddings of texts, (N, D) float32 unit rows."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A question: is a sample nearer to a label in `concern` than to any in `ordinary`, by a cosine of at least
    `margin`?
    """

    concern: tuple[str, ...]
    ordinary: tuple[str, ...]
    margin: float


@dataclass(frozen=True, slots=True)
class Rule:
    """Drops a sample with verdict `reason` if all its `axes` hold."""

    reason: Verdict
    axes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SafetyPrompts:
    """One version of the prompts: `labels` by name, language and text, and the sha256 of the file."""

    version: int
    labels: Mapping[str, Mapping[str, tuple[str, ...]]]
    axes: Mapping[str, Axis]
    rules: tuple[Rule, ...]
    sha256: str

    def texts(self, label: str, role: ModelRole) -> tuple[str, ...]:
        """Return a label's prompts for a role: English ones for the English model, all languages for the other."""
        by_language = self.labels[label]
        if role is ModelRole.EN:
            return by_language[BUILTIN_LANGUAGE]
        return tuple(text for texts in by_language.values() for text in texts)


def read_safety_prompts(recipe: SafetyRecipe, store: Store) -> SafetyPrompts | None:
    """Read the prompts that a recipe names; None if it names none.

    Raises: SafetyError when they do not exist or cannot be used; StoreError.
    """
    if recipe.prompts is None:
        return None
    if recipe.prompts.startswith(BUILTIN_PREFIX):
        path = Path(__file__).with_name(f"prompts_{recipe.prompts.removeprefix(BUILTIN_PREFIX)}.toml")
        if not is_file(path):
            raise SafetyError(
                f"This version of Shoal has no safety prompts {recipe.prompts}: use the version that started the run."
            )
        return parse_safety_prompts(path.read_bytes())
    if recipe.prompts.startswith(STORE_PREFIX):
        return parse_safety_prompts(store.read(recipe.prompts.removeprefix(STORE_PREFIX)))
    try:
        return parse_safety_prompts(Path(recipe.prompts).read_bytes())
    except OSError as error:
        raise SafetyError(
            f"Cannot read the safety prompts {recipe.prompts} ({error.strerror}): name another file."
        ) from error


def parse_safety_prompts(data: bytes) -> SafetyPrompts:
    """Parse a file of prompts, and check that its names refer to each other correctly.

    Raises: SafetyError when a name refers to nothing, a label has no English prompt, or a rule is invalid.
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
        raise SafetyError(f"Cannot read the safety prompts ({error!r}): write them as prompts_1.toml is.") from error
    _refuse_loose_ends(prompts)
    return prompts


def _texts(value: Any) -> tuple[str, ...]:
    """Return a list of texts as a tuple; a single text is refused, because it would become a list of letters."""
    if not isinstance(value, list) or not value or not all(isinstance(text, str) and text.strip() for text in value):
        raise ValueError(f"{value!r} is not a list of texts")
    return tuple(value)


def _refuse_loose_ends(prompts: SafetyPrompts) -> None:
    """Check the references between labels, axes and rules."""
    _refuse_loose_axes(prompts)
    for label, by_language in prompts.labels.items():
        if BUILTIN_LANGUAGE not in by_language:
            raise SafetyError(f"The safety label {label} has no prompts in {BUILTIN_LANGUAGE}: add some.")
    for rule in prompts.rules:
        if rule.reason not in REASONS:
            raise SafetyError(f"A safety rule has the reason {rule.reason}: use one of {', '.join(REASONS)}.")
        for axis_name in rule.axes:
            if axis_name not in prompts.axes:
                raise SafetyError(f"The safety rule for {rule.reason} names the unknown axis {axis_name}: add it.")


def _refuse_loose_axes(prompts: SafetyPrompts) -> None:
    for name, axis in prompts.axes.items():
        for label in (*axis.concern, *axis.ordinary):
            if label not in prompts.labels:
                raise SafetyError(f"The safety axis {name} names the label {label}, which has no prompts: add some.")
        if set(axis.concern) & set(axis.ordinary):
            raise SafetyError(f"The safety axis {name} has a label on both sides: remove it from one.")
        if not -2 <= axis.margin <= 2:
            raise SafetyError(f"The safety axis {name} has the impossible margin {axis.margin}: use -2 to 2.")


class SafetyJudge:
    """The prompts, embedded by one model."""

    def __init__(self, prompts: SafetyPrompts, role: ModelRole, model: EmbedsTexts) -> None:
        self.prompts = prompts
        used = sorted({label for axis in prompts.axes.values() for label in (*axis.concern, *axis.ordinary)})
        self._embedded: dict[str, Rows] = {label: model.embed_texts(prompts.texts(label, role)) for label in used}

    def drops(self, image_features: Rows, text_features: Rows) -> list[Verdict | None]:
        """Return for each of N samples the verdict that drops it, or None; both arguments are (N, D) float32 unit rows.

        The first rule that applies gives the verdict.
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
        """Return for N embeddings whether an axis holds, (N,)."""
        return np.asarray(self._nearest(axis.concern, features) - self._nearest(axis.ordinary, features) >= axis.margin)

    def _nearest(self, labels: Sequence[str], features: Rows) -> Rows:
        """Return the cosine of the nearest prompt of any of the labels, (N,)."""
        nearest: Rows = np.max([(features @ self._embedded[label].T).max(axis=1) for label in labels], axis=0)
        return nearest
