"""The schema of this version: its revision and SQL files, and whether a database has them.

Every command and worker checks this, so the module imports neither Alembic nor SQLAlchemy, which are slow to import.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from tracker.database.database import Connection, query, translated
from tracker.database.enums import LOGINS, QUEUES
from tracker.errors import Refused, SchemaBehind


def head_revision() -> str:
    """Return the revision of the last migration, which is the beginning of its file's name; a test compares it with
    Alembic's.
    """
    names = (file.name for file in files("migrations.versions").iterdir())
    return max(name.partition("_")[0] for name in names if name[:1].isdigit())


def require_head(connection: Connection) -> None:
    """Check that the database is at this version's revision.

    A worker's login may not read the revision: its protocol is checked when it registers.

    Raises:
        SchemaBehind: the database is older, newer or empty.
    """
    there = _read_revision(connection)
    if not there.exists:
        raise SchemaBehind("the database does not have Shoal's schema: run tracker migrate")
    if there.is_readable:
        _refuse_newer(there)
        if there.revision != head_revision():
            raise SchemaBehind(
                f"the database is at revision {there.revision}, this version works with {head_revision()}: "
                f"run tracker migrate"
            )


def require_not_newer(connection: Connection) -> None:
    """Check that this version knows the database's revision, or that there is none yet.

    Raises:
        SchemaBehind: the database is newer.
    """
    _refuse_newer(_read_revision(connection))


def require_owner(connection: Connection) -> None:
    """Check that the login may do what the owner of the schema may.

    Raises:
        Refused: it is a worker's login.
    """
    with translated():
        row = connection.execute(query("may_own")).fetchone()
    assert row is not None
    if not row["may"]:
        raise Refused(
            f"the login {row['login']} may not do the tracker's duties: use the login that ran tracker migrate"
        )


@dataclass(frozen=True, slots=True)
class _Revision:
    exists: bool
    is_readable: bool
    revision: str | None


def _read_revision(connection: Connection) -> _Revision:
    with translated():
        there = connection.execute(query("revision_table")).fetchone()
        assert there is not None
        if not there["readable"]:
            return _Revision(there["there"] is not None, False, None)
        row = connection.execute("SELECT version_num FROM tracker.alembic_version").fetchone()
    return _Revision(True, True, row["version_num"] if row else None)


def _refuse_newer(there: _Revision) -> None:
    # revisions are numbers of four digits, so they can be compared as text
    if there.revision is not None and there.revision > head_revision():
        raise SchemaBehind(
            f"this program works with revision {head_revision()} and is older than the database, which is at "
            f"{there.revision}: upgrade Shoal"
        )


def script(name: str) -> str:
    """Return roles.sql or grants.sql, with the queues and logins of the table of queues filled in."""
    text = files("tracker.database").joinpath(name).read_text(encoding="utf-8")
    return text.replace("{queues}", ", ".join(f"'{queue}'" for queue in QUEUES)).replace("{logins}", ", ".join(LOGINS))


def function_files() -> dict[str, str]:
    """Return the text of each function file, by the function's name."""
    folder = files("tracker.functions")
    return {Path(f.name).stem: f.read_text(encoding="utf-8") for f in folder.iterdir() if f.name.endswith(".sql")}
