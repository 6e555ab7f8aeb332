"""The root exception of dataset."""


class DatasetError(Exception):
    """The message is one sentence that names the remedy."""


def said_by(error: BaseException) -> str:
    """Return another library's error message as a part of a sentence: its first two lines that are not blank."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:200] if lines else type(error).__name__
