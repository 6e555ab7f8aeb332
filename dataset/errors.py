"""The root of what can go wrong with data."""


class DatasetError(Exception):
    """The message is one sentence that names the remedy."""


def said_by(error: BaseException) -> str:
    """What another library's error says, shortened to a part of a sentence: its first two lines that say anything."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] if lines else type(error).__name__
