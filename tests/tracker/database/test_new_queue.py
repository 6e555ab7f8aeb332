"""A new queue is an enum value with its migration, one SQL function and a grant: a copy of the tracker gets one."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from psycopg.conninfo import make_conninfo

from tracker.database.database import connect
from tracker.database.version import head_revision

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = Path(__file__).with_name("new_queue.py")

MIGRATION = '''
"""A queue of caption jobs."""

from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade() -> None:
    op.execute("ALTER TYPE tracker.queue ADD VALUE 'caption'")
    op.execute("ALTER TYPE tracker.output_kind ADD VALUE 'caption'")
'''
COMPLETE = """
-- p_result: {"rows": n, "bytes": n}
CREATE FUNCTION tracker.complete_caption(p_job bigint, p_lease uuid, p_result jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, tracker, pg_temp SET jit = off
AS $$
DECLARE
    rows_n bigint := (p_result ->> 'rows')::bigint;
BEGIN
    IF NOT tracker.finish('caption', p_job, p_lease, p_result, rows_n, rows_n) THEN
        RETURN;
    END IF;
    INSERT INTO tracker.manifest (kind, run_id, job_id, lease, path, rows, bytes)
    SELECT 'caption', run_id, p_job, p_lease, tracker.output_path('caption', run_id, p_job, p_lease), rows_n,
           (p_result ->> 'bytes')::bigint
    FROM tracker.job WHERE job_id = p_job;
END
$$;
"""
GRANT = "GRANT EXECUTE ON FUNCTION tracker.complete_caption TO shoal_caption;\n"


@pytest.fixture
def tracker_with_captions(tmp_path: Path) -> Path:
    """A copy of tracker/ and migrations/ in which exactly the files are changed that CONTRIBUTING.md names."""
    for package in ("tracker", "migrations"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    enums = tmp_path / "tracker" / "database" / "enums.py"
    text = enums.read_text(encoding="utf-8")
    last = 'Queue("tag", "tags"),\n'
    kinds = '"tag")'
    assert last in text
    assert kinds in text
    text = text.replace(last, f'{last}    Queue("caption", "captions", ("model",)),\n').replace(
        kinds, '"tag", "caption")'
    )
    enums.write_text(text, encoding="utf-8")
    migration = tmp_path / "migrations" / "versions" / "9999_caption.py"
    migration.write_text(MIGRATION.lstrip().format(head=head_revision()), encoding="utf-8")
    (tmp_path / "tracker" / "functions" / "complete_caption.sql").write_text(COMPLETE.lstrip(), encoding="utf-8")
    with (tmp_path / "tracker" / "database" / "grants.sql").open("a", encoding="utf-8") as grants:
        grants.write(GRANT)
    return tmp_path


@pytest.fixture
def empty_database(server: str) -> Iterator[str]:
    """The URL of a database without our schema; with it goes the role that the new queue brought."""
    name = f"shoal_test_{uuid4().hex[:8]}"
    with connect(server) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0".encode())
        yield make_conninfo(server, dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        connection.execute("DROP ROLE IF EXISTS shoal_caption")


def test_a_job_over_a_release_is_seeded_claimed_completed_and_listed_in_a_new_queue(
    tracker_with_captions: Path, empty_database: str
) -> None:
    store = tracker_with_captions / "store"
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), empty_database, str(store)],
        env=os.environ | {"PYTHONPATH": str(tracker_with_captions)},
        cwd=tracker_with_captions,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == {
        "new": [2, 0],
        "idle": [False, True],
        "folders": ["releases/r1/captions/small", "releases/r1/captions/large"],
        "listed": [{"kind": "caption", "run": "releases/r1", "rows": 3}] * 2,
        "queue": {"done": 2, "rows_in": 6, "rows_out": 6},
        "minute": 6,
        "alive": 1,
        "holds": True,
        "grants": ["9 logins may execute their functions, and nothing else"],
    }
