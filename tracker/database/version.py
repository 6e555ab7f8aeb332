"""What of the schema comes with this version (its revision, the functions' files), and whether a database has it.

Every command and worker asks, so nothing here needs Alembic or SQLAlchemy; `tracker.database.migrate` does.
"""

from importlib.resources import files
from pathlib import Path

from tracker.database.database import Connection, translated
from tracker.errors import SchemaBehind

REVISION_TABLE = """
SELECT to_regclass('tracker.alembic_version') AS there,
       has_table_privilege(to_regclass('tracker.alembic_version'), 'SELECT') AS readable
"""


def head_revision() -> str:
    """Return the last migration's revision, with which its file's name begins; a test holds it against Alembic's."""
    names = (file.name for file in files("migrations.versions").iterdir())
    return max(name.partition("_")[0] for name in names if name[:1].isdigit())


def require_head(connection: Connection) -> None:
    """Raise SchemaBehind unless the database is at this version's revision.

    A worker's login may not read the revision: its protocol is checked when it registers.
    """
    head = head_revision()
    with translated():
        there = connection.execute(REVISION_TABLE).fetchone()
        assert there is not None
        if there["there"] is None:
            raise SchemaBehind("the database has no schema of ours: run tracker migrate")
        if not there["readable"]:
            return
        row = connection.execute("SELECT version_num FROM tracker.alembic_version").fetchone()
    found = row["version_num"] if row else "none"
    if found != head:
        raise SchemaBehind(f"the database is at revision {found}, this version works with {head}: run tracker migrate")


def function_files() -> dict[str, str]:
    """The text of each function file, by the function's name."""
    folder = files("tracker.functions")
    return {Path(f.name).stem: f.read_text() for f in folder.iterdir() if f.name.endswith(".sql")}
