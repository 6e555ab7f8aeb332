"""How far annotators agree beyond chance: Cohen's kappa of two, Krippendorff's alpha of any number.

Sources: J. Cohen, A coefficient of agreement for nominal scales, 1960; K. Krippendorff, Computing Krippendorff's
alpha-reliability, 2011 (nominal data, missing values). Both are 1 for full agreement and 0 for that of chance.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence


def cohen_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> float | None:
    """Return kappa of the two labels of each item; None without items, or if both always gave the same label."""
    count = len(pairs)
    if not count:
        return None
    first, second = Counter(one for one, _ in pairs), Counter(one for _, one in pairs)
    observed = sum(one == other for one, other in pairs) / count
    expected = sum(first[label] * second[label] for label in first) / count**2
    return None if expected == 1 else (observed - expected) / (1 - expected)


def krippendorff_alpha(units: Iterable[Mapping[str, Hashable]]) -> float | None:
    """Return alpha of the labels of each item by annotator; items with fewer than two labels do not count.

    None if no item has two labels, or all labels are the same.
    """
    disagreements, totals = 0.0, Counter[Hashable]()
    for unit in units:
        labels = Counter(unit.values())
        given = labels.total()
        if given < 2:
            continue
        totals += labels
        disagreements += (given**2 - sum(one**2 for one in labels.values())) / (given - 1)
    pairable = totals.total()
    expected = pairable**2 - sum(one**2 for one in totals.values())
    return 1 - (pairable - 1) * disagreements / expected if expected else None
