"""`--drop-duplicates`: a condition on the side table `duplicates`."""

from dataset.formats.duplicates import KINDS
from dataset.formats.duplicates import NAME as TABLE
from dataset.select.errors import SelectError
from dataset.side_tables.rows import ReleaseRows


def without_duplicates(rows: ReleaseRows, where: str) -> str:
    """Return an expression that is also false for members of a group which another row represents.

    A row without an embedding is in no group, and stays.

    Raises: SelectError when the release has no such table, or one of another version.
    """
    table = rows.tables.get(TABLE)
    record = rows.release.record
    if table is None:
        raise SelectError(
            f"{record.name} has no side table {TABLE}: make it with dataset dedup {record.name} --model M."
        )
    if table.version != record.version:
        raise SelectError(
            f"The side table {TABLE} is of {record.name} {table.version}, and {record.version} has other rows: run "
            "dataset dedup again."
        )
    return f"({where}\n) AND ({TABLE}.kind IS NULL OR {TABLE}.kind = '{KINDS[0]}')"
