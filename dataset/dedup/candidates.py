"""Candidates: pairs of rows whose codes have a product from a threshold on.

Shorter codes come first: the leading numbers of a code, and the norm of the others as one more. Their product is never
below that of the codes (Cauchy-Schwarz), so that no pair is lost; of the pairs of neighbouring cells one in a hundred
is left for the codes themselves. A comparison of a row costs less memory traffic than it does with whole codes, which
decides where few new rows meet many old ones.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dataset.dedup.projection import Floats, places_from
from dataset.formats.halves import widen

Codes = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

SHORT_LENGTH = 32
_ROUNDING = 1e-5
"""Float32 sums of products of numbers that are at most 1 differ by less."""
_MANY = 1 / 16
"""Share of pairs from which one product of whole codes costs less than one by one."""
_PAIRS_AT_ONCE = 1_024
_PRODUCTS_AT_ONCE, _LEAST_ROWS = 1 << 22, 16
"""A cell of a large group or of very many rows has more."""
_CODES_AT_ONCE = 1_024
"""Pairs and codes whose numbers stay in a processor's second cache meanwhile."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that take part in a join: their codes, names and places in the order of quality."""

    codes: Codes
    """(N, K) float16 or float32."""
    node: Integers
    quality: Keys
    id: Integers
    rest: Floats | None = None
    """(N,) float32, what `rest_of` returns for the codes; None: it is computed."""
    short: Floats = field(init=False)
    """(N, SHORT_LENGTH) float32, or the whole codes if they are hardly longer."""

    def __post_init__(self) -> None:
        """Compute the short codes."""
        object.__setattr__(self, "short", _shorten(self.codes, self.rest))

    @property
    def are_short(self) -> bool:
        """Whether the short codes are the codes themselves."""
        return self.short.shape == self.codes.shape

    def ranks(self) -> Integers:
        """Return each row's place in the order of quality among these -> (N,)."""
        ranks = np.empty(len(self.id), np.int64)
        ranks[np.lexsort((self.id, self.quality))] = np.arange(len(self.id))
        return ranks


def rest_of(codes: Codes) -> Floats:
    """Return the norm of the numbers of codes that short codes leave out -> (N,) float32."""
    found = np.empty(len(codes), np.float32)
    for start in range(0, len(codes), _CODES_AT_ONCE):
        rest = widen(codes[start : start + _CODES_AT_ONCE, SHORT_LENGTH - 1 :])
        found[start : start + len(rest)] = np.sqrt(np.einsum("nk,nk->n", rest, rest))
    return found


def _shorten(codes: Codes, rest: Floats | None) -> Floats:
    if codes.shape[1] <= 2 * SHORT_LENGTH:
        return widen(codes)
    found = np.empty((len(codes), SHORT_LENGTH), np.float32)
    for start in range(0, len(codes), _CODES_AT_ONCE):
        part = slice(start, start + _CODES_AT_ONCE)
        found[part, :-1] = widen(codes[part, : SHORT_LENGTH - 1])
    found[:, -1] = rest_of(codes) if rest is None else rest
    return found


def near_pairs(
    left: Rows, a: Integers, right: Rows, b: Integers, from_product: float, short_b: Floats | None = None
) -> tuple[Integers, Integers, Floats]:
    """Return the pairs of rows a of `left` and b of `right` that are candidates, as places in a and in b, and their
    products.

    `short_b` are the short codes of b, where the caller has them already.
    """
    others = right.short[b] if short_b is None else short_b
    step = max(_LEAST_ROWS, _PRODUCTS_AT_ONCE // max(1, len(b)))
    found = []
    for start in range(0, max(1, len(a)), step):
        left_place, right_place, products = _near_pairs(left, a[start : start + step], right, b, from_product, others)
        found.append((left_place + start, right_place, products))
    if len(found) == 1:
        return found[0]
    places, others_places, products = (np.concatenate(column) for column in zip(*found, strict=True))
    return places, others_places, products


def _near_pairs(
    left: Rows, a: Integers, right: Rows, b: Integers, from_product: float, others: Floats
) -> tuple[Integers, Integers, Floats]:
    products = left.short[a] @ others.T
    if left.are_short:
        found_a, found_b = places_from(products, from_product)
        return found_a, found_b, products[found_a, found_b]
    found_a, found_b = places_from(products, from_product - _ROUNDING)
    if len(found_a) > _MANY * len(a) * len(b):
        products = widen(left.codes[a]) @ widen(right.codes[b]).T
        found_a, found_b = places_from(products, from_product)
        return found_a, found_b, products[found_a, found_b]
    exact = np.empty(len(found_a), np.float32)
    mine = widen(left.codes[a]) if len(found_a) else np.empty(0, np.float32)
    for start in range(0, len(found_a), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        theirs = widen(right.codes[b[found_b[some]]])
        exact[some] = np.einsum("nk,nk->n", mine[found_a[some]], theirs)
    good = np.flatnonzero(exact >= from_product)
    return found_a[good], found_b[good], exact[good]
