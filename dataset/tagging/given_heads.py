"""The heads of a tagging with their model cards: from the store, or from local files."""

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dataset import strict_json
from dataset.formats.release_embeddings import EmbeddingsRecord
from dataset.recipe.recipe import STORE_PREFIX
from dataset.store.store import Store, StoreError
from dataset.tagging.errors import TaggingError
from dataset.tagging.options import HeadChoice
from dataset.tags.heads import (
    CARD_SUFFIX,
    STORE_FOLDER,
    SUFFIX,
    Head,
    HeadError,
    HeadFile,
    Kind,
    card_beside,
    read_head_file,
)


@dataclass(frozen=True, slots=True, eq=False)
class GivenHead:
    """A head's file, its name in records, and its model card."""

    name: str
    file: HeadFile = field(repr=False)
    card: bytes = field(repr=False)

    @property
    def choice(self) -> HeadChoice:
        """The head as options name it."""
        return HeadChoice(head=self.name, sha256=self.file.sha256, kind=self.file.kind)


def find_heads(store: Store, named: Iterable[str]) -> dict[str, GivenHead]:
    """Return heads by tag; each is named by a local file, or as it is in the store: NAME or store:heads/NAME….

    Raises: HeadError when one is missing; TaggingError when two compute one tag.
    """
    found: dict[str, GivenHead] = {}
    for name in named:
        is_file = name.endswith(SUFFIX) and not _is_stored(name)
        given = _of_file(Path(name)) if is_file else of_store(store, store_name(name))
        tag = given.file.tag.value
        if tag in found:
            raise TaggingError(f"{found[tag].name} and {given.name} both compute {tag}: give one head for each tag.")
        found[tag] = given
    return found


def store_name(name: str) -> str:
    """Return the name of a head of the store as recipes have it."""
    return name if _is_stored(name) else f"{STORE_PREFIX}{STORE_FOLDER}/{name}{SUFFIX}"


def of_store(store: Store, name: str) -> GivenHead:
    """Read a head of the store, store:heads/NAME.safetensors.

    Raises: HeadError when it is missing or damaged.
    """
    place = name.removeprefix(STORE_PREFIX)
    try:
        data = store.read(place)
    except StoreError as error:
        raise HeadError(
            f"The store {store.uri} has no head {place}: put it there with `dataset heads add`, or name a file."
        ) from error
    with tempfile.TemporaryDirectory(prefix="shoal-head-") as folder:
        path = Path(folder) / Path(place).name
        path.write_bytes(data)
        file = read_head_file(path)
    card = place.removesuffix(SUFFIX) + CARD_SUFFIX
    return GivenHead(name, file, store.read(card) if store.exists(card) else _plain_card(name, file))


def checked(given: Mapping[str, GivenHead], choices: Mapping[str, HeadChoice]) -> Mapping[str, GivenHead]:
    """Return the heads.

    Raises: TaggingError when a file is not the one that was chosen.
    """
    for tag, choice in choices.items():
        if given[tag].choice != choice:
            raise TaggingError(
                f"{choice.head} has the sha256 {given[tag].file.sha256[:12]}…, not {choice.sha256[:12]}… as when the "
                "tagging was begun: restore that file, or begin again with --restart."
            )
    return given


def fitting(given: GivenHead, folder: str, record: EmbeddingsRecord) -> Head:
    """Return the network of a head that reads the embeddings in a folder.

    Raises: TaggingError when it was made on another model's.
    """
    head, model = given.file.head(), record.model
    for what, made_on, found in (
        ("weights", head.embedder.sha256, model.sha256),
        ("configuration or preprocessing", head.embedder.config_sha256, model.config_sha256),
    ):
        if made_on is not None and made_on != found:
            raise TaggingError(
                f"The head {given.name} was made on other {what} ({made_on[:12]}…) than embeddings/{folder} "
                f"({found[:12] or 'unknown'}…, {model.name}): name the folder of {head.embedder.model} with --model, "
                "or train a head on these embeddings with `dataset train-head`."
            )
    if head.dimensions != record.dimensions:
        raise TaggingError(
            f"The head {given.name} reads {head.dimensions} dimensions of {head.embedder.model}, and "
            f"embeddings/{folder} have {record.dimensions}: name another folder with --model, or another head."
        )
    return head


def reads_embeddings(given: GivenHead) -> bool:
    """Return whether a head reads embeddings."""
    return given.file.kind is Kind.EMBEDDING


def _is_stored(name: str) -> bool:
    return name.startswith(STORE_PREFIX)


def _of_file(path: Path) -> GivenHead:
    file = read_head_file(path)
    return GivenHead(path.name, file, card_beside(path) or _plain_card(path.name, file))


def _plain_card(name: str, file: HeadFile) -> bytes:
    """Return a card of what the head's file says about itself, for a head without a card."""
    said = {
        key: value for key, value in file.said.items() if key in ("tag", "kind", "embedder", "architecture", "about")
    }
    shown = strict_json.dumps(said, indent=1, sort_keys=True, ensure_ascii=False)
    return f"# {name}\n\nThis head came without a model card. Its file says:\n\n```json\n{shown}\n```\n".encode()
