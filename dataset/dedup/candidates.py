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

Integers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

SHORT_LENGTH = 32
_ROUNDING = 1e-5
"""Float32 sums of products of numbers that are at most 1 differ by less."""
_MANY = 1 / 16
"""Share of pairs from which one product of whole codes costs less than one by one."""
_PAIRS_AT_ONCE = 32_768


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that take part in a join: their codes, names and places in the order of quality."""

    codes: Floats
    node: Integers
    quality: Keys
    id: Integers
    short: Floats = field(init=False)
    """(N, SHORT_LENGTH) float32, or the codes if they are hardly longer."""

    def __post_init__(self) -> None:
        """Compute the short codes."""
        object.__setattr__(self, "short", shorten(self.codes))

    def ranks(self) -> Integers:
        """Return each row's place in the order of quality among these -> (N,)."""
        ranks = np.empty(len(self.id), np.int64)
        ranks[np.lexsort((self.id, self.quality))] = np.arange(len(self.id))
        return ranks


def shorten(codes: Floats) -> Floats:
    """Return short codes -> (N, SHORT_LENGTH) float32; codes that are hardly longer are returned as they are."""
    if codes.shape[1] <= 2 * SHORT_LENGTH:
        return codes
    found = np.empty((len(codes), SHORT_LENGTH), np.float32)
    found[:, :-1] = codes[:, : SHORT_LENGTH - 1]
    rest = codes[:, SHORT_LENGTH - 1 :]
    found[:, -1] = np.sqrt(np.einsum("nk,nk->n", rest, rest))
    return found


def near_pairs(
    left: Rows, a: Integers, right: Rows, b: Integers, from_product: float, short_b: Floats | None = None
) -> tuple[Integers, Integers]:
    """Return the pairs of rows a of `left` and b of `right` that are candidates, as places in a and in b.

    `short_b` are the short codes of b, where the caller has them already.
    """
    others = right.short[b] if short_b is None else short_b
    short = left.short is not left.codes
    found_a, found_b = places_from(left.short[a] @ others.T, from_product - (_ROUNDING if short else 0))
    if not short or not len(found_a):
        return found_a, found_b
    if len(found_a) > _MANY * len(a) * len(b):
        return places_from(left.codes[a] @ right.codes[b].T, from_product)
    good = np.empty(len(found_a), bool)
    for start in range(0, len(found_a), _PAIRS_AT_ONCE):
        some = slice(start, start + _PAIRS_AT_ONCE)
        products = np.einsum("nk,nk->n", left.codes[a[found_a[some]]], right.codes[b[found_b[some]]])
        good[some] = products >= from_product
    return found_a[good], found_b[good]
