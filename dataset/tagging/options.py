"""What a tagging was asked for; it determines the bytes of the table."""

from collections.abc import Mapping
from dataclasses import dataclass

from dataset.formats.json_records import from_json, to_json
from dataset.recipe.tags import Tag
from dataset.tagging.errors import TaggingError
from dataset.tags.heads import Kind

UNIT_ROWS = 262_144
"""Embeddings of a unit: half a second of a small head, half a minute of LAION's largest."""
UNIT_PICTURES = 50_000
"""Pictures of a unit: an hour of a core for a large classifier, a minute of a GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadChoice:
    """A head by its name: `store:heads/NAME.safetensors`, or a local file's; and the file's sha256."""

    head: str
    sha256: str
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a tagging; `build` names its folder of work among those of the same release."""

    heads: Mapping[str, HeadChoice]
    """By tag."""
    model: str = ""
    """The folder below embeddings/; '' if no head reads embeddings."""
    unit_rows: int = UNIT_ROWS
    unit_pictures: int = UNIT_PICTURES
    build: str = ""

    def __post_init__(self) -> None:
        """Check the values.

        Raises: TaggingError.
        """
        if not self.heads:
            raise TaggingError("No head is named: give at least one with --head.")
        unknown = next((tag for tag in self.heads if tag not in list(Tag)), None)
        if unknown is not None:
            raise TaggingError(f"{unknown} is not a tag: use {', '.join(Tag)}.")
        if self.of_kind(Kind.EMBEDDING) and not self.model:
            raise TaggingError("A head reads embeddings: name their folder below embeddings/ with --model.")

    def of_kind(self, kind: Kind) -> list[str]:
        """Return the tags whose heads read this, in order."""
        return sorted(tag for tag, choice in self.heads.items() if choice.kind is kind)

    def to_json(self) -> bytes:
        """Return the options as JSON."""
        return to_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> "Options":
        """Read options.

        Raises: TaggingError when they are not such options.
        """
        try:
            return from_json(cls, data)
        except ValueError as error:
            raise TaggingError(f"The options of a tag job are damaged ({error}): seed it again.") from error
