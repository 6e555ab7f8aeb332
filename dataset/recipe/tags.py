"""The recipe's tags and safety: which heads tag a pair, and which prompts drop a sample.

A head reads the embeddings of one model, so each role names its own heads. Without a head, the part's column is null.
As with models, a checksum is null until the first filter worker settles it; after that, workers with another file are
refused.

The recipe has no arrays, because the tracker compares it value by value.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from dataset.errors import DatasetError

BUILTIN_PROMPTS = "builtin:1"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class TagRecipeError(DatasetError):
    """The recipe's tags or safety are invalid, or this worker has other files."""


class Tag(StrEnum):
    """The tags of a pair; each is a column of the part."""

    PUNSAFE = "punsafe"
    """Probability of nudity or sexual content, 0 to 1."""
    PWATERMARK = "pwatermark"
    """Probability of a watermark, 0 to 1."""
    AESTHETIC = "aesthetic"
    """How much people liked similar pictures, about 1 to 10."""


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """A head: `store:heads/NAME.safetensors`, or a local file."""

    head: str
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.head, str) or not self.head.strip():
            raise TagRecipeError("A head in the recipe is empty: give head as store:heads/NAME.safetensors.")
        _refuse_checksum(self.sha256)


@dataclass(frozen=True, slots=True)
class RoleTags:
    """The heads for the embeddings of one role's model."""

    punsafe: HeadRecipe | None = None
    pwatermark: HeadRecipe | None = None
    aesthetic: HeadRecipe | None = None

    def of(self, tag: Tag) -> HeadRecipe | None:
        """Return the head of a tag; None without one."""
        head: HeadRecipe | None = getattr(self, tag.value)
        return head


@dataclass(frozen=True, slots=True)
class TagsRecipe:
    """Heads by the role of the model whose embeddings they read."""

    en: RoleTags = field(default_factory=RoleTags)
    other: RoleTags = field(default_factory=RoleTags)


@dataclass(frozen=True, slots=True)
class SafetyRecipe:
    """The prompts that drop samples: `builtin:VERSION`, `store:PATH`, or a local file; null drops none."""

    prompts: str | None = BUILTIN_PROMPTS
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.prompts is not None and (not isinstance(self.prompts, str) or not self.prompts.strip()):
            raise TagRecipeError("The recipe's safety.prompts is empty: give builtin:1, a file, or null.")
        _refuse_checksum(self.sha256)


def read_tags(section: Any) -> TagsRecipe:
    """Read the recipe's `tags`.

    Raises: TagRecipeError for an unknown key or an invalid value.
    """
    given = _section(section, TagsRecipe, "tags")
    roles = {role: _section(tags, RoleTags, f"tags.{role}") for role, tags in given.items()}
    return TagsRecipe(
        **{
            role: RoleTags(**{tag: _read_head(head, f"tags.{role}.{tag}") for tag, head in tags.items()})
            for role, tags in roles.items()
        }
    )


def read_safety(section: Any) -> SafetyRecipe:
    """Read the recipe's `safety`.

    Raises: TagRecipeError for an unknown key or an invalid value.
    """
    return SafetyRecipe(**_section(section, SafetyRecipe, "safety"))


def settle_tags(tags: TagsRecipe, loaded: Mapping[str, Mapping[Tag, str]]) -> TagsRecipe:
    """Return the tags with the sha256 of the loaded heads, by role and tag, where they had none.

    Raises: TagRecipeError when the recipe has other checksums.
    """
    for role, checksums in loaded.items():
        heads: RoleTags = getattr(tags, role)
        for tag, sha256 in checksums.items():
            head = heads.of(tag)
            if head is not None:
                _refuse_other(f"head {head.head}", head.sha256, sha256)
                heads = replace(heads, **{tag.value: replace(head, sha256=sha256)})
        tags = replace(tags, **{role: heads})
    return tags


def settle_safety(safety: SafetyRecipe, sha256: str | None) -> SafetyRecipe:
    """Return the safety recipe with the sha256 of the loaded prompts.

    Raises: TagRecipeError when the recipe has another checksum.
    """
    _refuse_other(f"safety prompts {safety.prompts}", safety.sha256, sha256)
    return replace(safety, sha256=sha256)


def _refuse_other(what: str, fixed: str | None, found: str | None) -> None:
    if fixed not in (None, found):
        raise TagRecipeError(
            f"This worker's {what} have sha256 {str(found)[:12]}…, but the crawl's have {str(fixed)[:12]}…: give "
            "this worker the crawl's file, or start a new run."
        )


def _read_head(given: Any, where: str) -> HeadRecipe | None:
    if given is None:
        return None
    section = _section(given, HeadRecipe, where)
    if "head" not in section:
        raise TagRecipeError(f"The recipe's {where} has no head: give head as store:heads/NAME.safetensors.")
    return HeadRecipe(**section)


def _section(value: Any, kind: type[Any], where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TagRecipeError(f"The recipe's {where} is {value!r}: give a JSON object.")
    known = [member.name for member in fields(kind)]
    for name in value:
        if name not in known:
            raise TagRecipeError(f"The recipe's {where} has an unknown key {name!r}: use {', '.join(known)}.")
    return dict(value)


def _refuse_checksum(sha256: Any) -> None:
    if sha256 is not None and (not isinstance(sha256, str) or not _SHA256.fullmatch(sha256)):
        raise TagRecipeError(f"{sha256!r} is not a sha256: give 64 hexadecimal digits in lower case, or null.")
