"""Queries of our own API: checked, and in the one form by which equal queries are known."""

import base64
import hashlib
import json
from dataclasses import asdict, dataclass

from dataset import strict_json
from dataset.search.bodies import Fields
from dataset.search.engine import MODALITIES
from dataset.search.errors import SearchError
from dataset.search.listing import MOST_DEPTH
from dataset.search.terms import MOST_TERMS, Term, TermKind

MOST_RESULTS = 10_000
"""Of one page."""
DEFAULT_RESULTS = 40
MOST_COLUMNS = 64
DEFAULT_COLUMNS = ("url", "caption", "WIDTH", "HEIGHT")
GROUP_SIZE = "group_size"
"""Of a result, where the index has groups of near-duplicates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A query, without its page. The engine reads `filters`; `safe` None means the server's mode."""

    index: str | None
    terms: tuple[Term, ...]
    modality: str
    filters: str
    safe: bool | None
    collapse: bool
    at_least: float | None
    """The smallest similarity."""

    def digest(self, generation: str) -> str:
        """Return a name of this query on this generation of its index."""
        canonical = strict_json.dumps([asdict(self), generation], sort_keys=True)
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Which results of a query are returned, and what of them; `columns` None means the default ones."""

    limit: int = DEFAULT_RESULTS
    cursor: str | None = None
    columns: tuple[str, ...] | None = None
    embeddings: bool = False
    count: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NearOptions:
    """Which near-duplicates of a row are returned, and what of them; as in Question and Page."""

    index: str | None
    modality: str
    filters: str
    safe: bool | None
    limit: int
    columns: tuple[str, ...] | None


def parse_question(fields: Fields, *, needs_terms: bool = True) -> Question:
    """Read the fields of a query.

    Raises: SearchError (400) that names the field.
    """
    return Question(
        index=fields.get("index", str),
        terms=parse_terms(fields) if needs_terms or fields.has("terms") else (),
        modality=_modality(fields),
        filters=fields.get("filters", str, ""),
        safe=fields.get("safe", bool),
        collapse=fields.get("collapse", bool, False),
        at_least=fields.number("at_least", low=-1, high=1),
    )


def parse_page(fields: Fields) -> Page:
    """Read the fields of a page.

    Raises: SearchError (400) that names the field.
    """
    return Page(
        limit=fields.integer("limit", DEFAULT_RESULTS, low=1, high=MOST_RESULTS),
        cursor=fields.get("cursor", str),
        columns=_columns(fields),
        embeddings=fields.get("embeddings", bool, False),
        count=fields.get("count", bool, False),
    )


def parse_near(fields: Fields) -> NearOptions:
    """Read the fields of a request for near-duplicates.

    Raises: SearchError (400) that names the field.
    """
    return NearOptions(
        index=fields.get("index", str),
        modality=_modality(fields),
        filters=fields.get("filters", str, ""),
        safe=fields.get("safe", bool),
        limit=fields.integer("limit", DEFAULT_RESULTS, low=1, high=MOST_RESULTS),
        columns=_columns(fields),
    )


def _modality(fields: Fields) -> str:
    modality: str = fields.get("modality", str, "image")
    if modality not in MODALITIES:
        raise fields.wrong("modality", "must be image or text")
    return modality


def _columns(fields: Fields) -> tuple[str, ...] | None:
    columns = fields.get("columns", list)
    if columns is not None and (len(columns) > MOST_COLUMNS or not all(isinstance(one, str) for one in columns)):
        raise fields.wrong("columns", f"must be a list of at most {MOST_COLUMNS} names")
    return None if columns is None else tuple(columns)


def parse_terms(fields: Fields) -> tuple[Term, ...]:
    """Read `terms`, a list of 1 to MOST_TERMS objects with a weight and one of text, picture, url, id and vector.

    Raises: SearchError (400) that names the field.
    """
    given = fields.get("terms", list)
    if not given or len(given) > MOST_TERMS:
        raise fields.wrong("terms", f"must be a list of 1 to {MOST_TERMS} terms")
    return tuple(_term(one, f"terms[{at}].") for at, one in enumerate(given))


def _term(given: object, path: str) -> Term:
    if not isinstance(given, dict):
        raise SearchError(400, f"{path[:-1]} must be an object.", field=path[:-1])
    fields = Fields(given, path)
    weight = fields.number("weight", 1.0, low=-100, high=100)
    kinds = [kind for kind in TermKind if given.get(kind.value) is not None]
    if len(kinds) != 1:
        raise SearchError(400, f"{path[:-1]} must have one of {', '.join(TermKind)}.", field=path[:-1])
    value = _value(fields, kinds[0])
    for kind in TermKind:
        fields.get(kind.value, object)  # null, or already read
    fields.finish()
    return Term(kinds[0], value, weight)


def _value(fields: Fields, kind: TermKind) -> str | int | tuple[float, ...]:
    match kind:
        case TermKind.ID:
            number: int = fields.integer("id", low=0, high=2**53)
            return number
        case TermKind.VECTOR:
            return fields.numbers("vector") or ()
        case _:
            text: str = fields.get(kind.value, str)
            if not text:
                raise fields.wrong(kind.value, "is empty")
            return text


def write_cursor(digest: str, start: int) -> str:
    """Return the cursor of the page that begins at result `start`."""
    return base64.urlsafe_b64encode(strict_json.dumps([digest, start]).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, digest: str) -> int:
    """Return at which result a page begins.

    Raises: SearchError: 400 for what is not a cursor, 410 for one of another query or of an earlier index.
    """
    if cursor is None:
        return 0
    try:
        of, start = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, TypeError):
        of, start = None, None
    if not (isinstance(of, str) and isinstance(start, int) and 0 <= start <= MOST_DEPTH):
        raise SearchError(400, "cursor is not one of this server.", field="cursor")
    if of != digest:
        said = "The cursor belongs to another query, or the index has changed: ask for the first page."
        raise SearchError(410, said, field="cursor")
    return start
