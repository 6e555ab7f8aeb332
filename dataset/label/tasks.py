"""Tasks: a TOML file with the classes, the written guideline, and which pictures to draw.

    name = "watermark"
    guideline_version = "1"
    guideline = "A mark of ownership that lies over the picture …"

    [[classes]]
    name = "watermark"
    meaning = "A mark lies over the picture"
    prompts = ["clip art watermark"]
    examples = [17]                     # ids of the release

    [[classes]]
    name = "clean"

    [draws.uniform]
    count = 1000

docs/detectors.md describes all keys. Unknown keys are refused.
"""

import hashlib
import json
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dataset import strict_json
from dataset.formats.json_records import from_json
from dataset.label.journal import LabelError
from dataset.tags.heads import SUFFIX

MOST_CLASSES = 9
"""One for each of the keys 1 to 9."""
EXAMPLE = "id:"
"""Begins the prompt of a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelClass:
    """A class; `meaning` is a line that is shown beside its key."""

    name: str
    meaning: str = ""
    prompts: tuple[str, ...] = ()
    examples: tuple[int, ...] = ()
    unclear: bool = False
    """It means that nobody can tell: such answers give no label."""

    @property
    def all_prompts(self) -> tuple[str, ...]:
        """The prompts, and the examples as prompts."""
        return (*self.prompts, *(f"{EXAMPLE}{one}" for one in self.examples))


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptDraw:
    """Pictures near prompts and examples, from bands [low, high) of similarity alike."""

    per_prompt: int = 100
    bands: tuple[tuple[float, ...], ...] = ((-1.0, 1.01),)
    depth: int = 2_000
    """Nearest pictures that are looked at."""
    filter: str = ""
    """As in `dataset search --filter`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HardNegativeDraw:
    """Pictures near the examples of a class whose score is below a limit."""

    of: str
    score: str
    below: float
    count: int = 100
    neighbours: int = 200
    """Nearest pictures of each example that are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformDraw:
    """Pictures with equal probability."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StratifiedDraw:
    """The same number of pictures from each stratum of a score: below the first edge, between edges, above the last."""

    score: str
    """A column of the release or TABLE.COLUMN of a side table; or the file of a head, NAME.safetensors."""
    edges: tuple[float, ...]
    per_stratum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Which pictures are drawn; None for a kind that is not drawn."""

    prompts: PromptDraw | None = None
    hard_negatives: HardNegativeDraw | None = None
    uniform: UniformDraw | None = None
    stratified: StratifiedDraw | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task; see the head of this module."""

    name: str
    guideline_version: str
    guideline: str
    classes: tuple[LabelClass, ...]
    draws: Draws
    seed: int = 0
    annotators: int = 1
    """Answers that each picture gets."""
    overlap: float = 1.0
    """Share of the groups whose pictures get all answers; the others get one."""
    validation: float = 0.15
    """Share of the groups near prompts that are for validation; the others are for training."""
    random_validation: float = 0.0
    """Share of the groups drawn at random that are for validation; the others are for the test."""
    blur: bool = False
    """Pictures are blurred until the annotator uncovers them."""
    break_minutes: int = 30
    """Minutes of work after which a break is suggested."""

    def find_class(self, name: str) -> LabelClass:
        """Return a class by its name.

        Raises: LabelError when there is none.
        """
        for one in self.classes:
            if one.name == name:
                return one
        raise LabelError(f"There is no class {name!r}: name one of {', '.join(one.name for one in self.classes)}.")

    @property
    def needs_index(self) -> bool:
        """Whether its pictures cannot be drawn without the release's index."""
        heads = [one.score for one in (self.draws.hard_negatives, self.draws.stratified) if one]
        near = self.draws.prompts or self.draws.hard_negatives
        return bool(near) or any(score.endswith(SUFFIX) for score in heads)

    @property
    def digest(self) -> str:
        """sha256 of what determines the draw: not of the guideline, which may become clearer."""
        classes = [[one.name, one.prompts, one.examples] for one in self.classes]
        said = [classes, asdict(self.draws), self.seed, self.validation, self.random_validation]
        return hashlib.sha256(strict_json.dumps(said).encode()).hexdigest()


_SECTIONS: dict[str, type] = {
    "prompts": PromptDraw,
    "hard_negatives": HardNegativeDraw,
    "uniform": UniformDraw,
    "stratified": StratifiedDraw,
}


def read_task(path: Path) -> Task:
    """Read a task.

    Raises: LabelError when it cannot be read, a key is unknown or missing, or a value makes no sense.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LabelError(f"Cannot read {path} ({error.strerror}): name a task's TOML file.") from error
    except ValueError as error:
        raise LabelError(f"{path} is not TOML ({error}): correct it.") from error
    try:
        task = from_json(Task, strict_json.dumps(_filled(given)).encode())
    except (ValueError, TypeError, AttributeError) as error:
        raise LabelError(f"{path} is not a task ({error}): docs/detectors.md has its keys.") from error
    if problem := _problem(task):
        raise LabelError(f"{path}: {problem}.")
    return task


def _filled(given: dict[str, Any]) -> dict[str, Any]:
    """Return the keys with the default values of those that are missing."""
    draws = given.get("draws", {})
    draws = _with_defaults(Draws, {name: _with_defaults(_SECTIONS[name], one) if name in _SECTIONS else one
                                   for name, one in draws.items()})  # fmt: skip
    classes = [_with_defaults(LabelClass, one) for one in given.get("classes", [])]
    return _with_defaults(Task, {**given, "classes": classes, "draws": draws})


def _with_defaults(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    defaults = {one.name: one.default for one in fields(kind) if isinstance(one.default, (str, int, float, tuple))}
    empty = {one.name: None for one in fields(kind) if one.default is None}
    found: dict[str, Any] = json.loads(strict_json.dumps(empty | defaults | given))
    return found


def _problem(task: Task) -> str | None:
    names = [one.name for one in task.classes]
    draws = task.draws
    checks = [
        (2 <= len(names) <= MOST_CLASSES, f"{len(names)} classes: give 2 to {MOST_CLASSES}"),
        (len({*names}) == len(names) and all(name.strip() for name in names), "give each class a name of its own"),
        (sum(not one.unclear for one in task.classes) >= 2, "give 2 classes that are not unclear"),
        (bool(task.guideline.strip() and task.guideline_version.strip()), "write a guideline, and its version"),
        (draws != Draws(), "draws has no section: give [draws.uniform] or another"),
        (draws.prompts is None or any(one.all_prompts for one in task.classes), "give a class prompts or examples"),
        (task.annotators >= 1 and task.break_minutes >= 1, "annotators and break_minutes are 1 or more"),
        (0 <= task.seed < 2**63, "seed is a number from 0 on"),
        (all(0 <= share <= 1 for share in (task.overlap, task.validation, task.random_validation)),
         "overlap, validation and random_validation are shares from 0 to 1"),
    ]  # fmt: skip
    if draws.prompts is not None:
        bands = draws.prompts.bands
        checks.append(
            (bool(bands) and all(len(one) == 2 and one[0] < one[1] for one in bands), "bands are [low, high]")
        )
        checks.append((draws.prompts.per_prompt > 0 and draws.prompts.depth > 0, "per_prompt and depth are 1 or more"))
    if draws.hard_negatives is not None:
        of = [one for one in task.classes if one.name == draws.hard_negatives.of]
        checks.append((bool(of and of[0].examples), "hard_negatives.of names a class with examples"))
        counts = (draws.hard_negatives.count, draws.hard_negatives.neighbours)
        checks.append((min(counts) > 0, "hard_negatives.count and neighbours are 1 or more"))
    if draws.uniform is not None:
        checks.append((draws.uniform.count > 0, "uniform.count is 1 or more"))
    if draws.stratified is not None:
        edges = draws.stratified.edges
        checks.append((bool(edges) and list(edges) == sorted({*edges}), "stratified.edges are different and ascending"))
        checks.append((draws.stratified.per_stratum > 0, "stratified.per_stratum is 1 or more"))
    return next((said for good, said in checks if not good), None)
