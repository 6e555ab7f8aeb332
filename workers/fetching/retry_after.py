"""Retry-After: for how long a server that answers 429 or 503 must not be contacted.

Source: RFC 9110, 10.2.3: seconds, or a date in one of three spellings. Some servers send fractions of a second.
"""

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"([0-9]+)(?:\.[0-9]*)?\Z")

MAX_SECONDS = 86_400.0
"""Longer values are cut to this; no batch lasts a day."""


def retry_after_seconds(value: bytes | None, now: datetime) -> float | None:
    """Return the seconds of a Retry-After header at `now` (with a zone); None if it is missing or invalid."""
    text = (value or b"").decode("latin-1").strip()
    if seconds := _SECONDS.match(text):
        return MAX_SECONDS if len(seconds[1]) > 9 else min(MAX_SECONDS, float(text))
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        return min(MAX_SECONDS, max(0.0, (date - now).total_seconds()))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
