"""The interval of a share that was counted."""

Z = 1.96
"""Of 95 %."""


def wilson(hits: float, tries: float) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share; 0 and 1 without tries.

    Both may be fractions: of a weighted sample, `tries` is its effective size.
    """
    if not tries:
        return 0.0, 1.0
    share = hits / tries
    middle = share + Z * Z / (2 * tries)
    spread = Z * float((share * (1 - share) / tries + Z * Z / (4 * tries * tries)) ** 0.5)
    whole = 1 + Z * Z / tries
    return max(0.0, (middle - spread) / whole), min(1.0, (middle + spread) / whole)
