"""A crawl that began in a version that did not delete pictures: after the upgrade its piles are counted, and no picture
is lost.
"""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from alembic import command
from psycopg.conninfo import make_conninfo
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from tests.tracker.filling import scalar
from tracker.accounts.audit import audit
from tracker.database.database import Connection, connect
from tracker.database.migrate import _configuration, migrate
from tracker.database.version import function_files, script
from tracker.storage.retention import Deleted, retain

BEFORE = """
INSERT INTO tracker.run (name, recipe) VALUES ('old', '{}');
INSERT INTO tracker.job (queue, run_id, state, finished_at, error, payload) VALUES
    ('download', 1, 'done', now() - interval '9 days', NULL, '{}'),
    ('filter', 1, 'done', now() - interval '8 days', NULL, '{"shard": "old/shards/1", "subset": "en", "samples": 6}'),
    ('ingest', 1, 'dead', now(), 'no such pack', '{"rows": 7}'),
    ('ingest', 1, 'done', now(), NULL, '{"rows": 5}');
INSERT INTO tracker.job (queue, run_id, payload) VALUES
    ('filter', 1, '{"shard": "old/shards/2", "subset": "en", "samples": 4}'), ('ingest', 1, '{"rows": 20}');
INSERT INTO tracker.manifest (kind, run_id, job_id, lease, path, rows, samples, bytes) VALUES
    ('shard', 1, 1, gen_random_uuid(), 'old/shards/1', 10, 6, 600),
    ('shard', 1, 1, gen_random_uuid(), 'old/shards/2', 10, 4, 400);
INSERT INTO tracker.ledger (run_id, account, subset, n, job_id) VALUES (1, 'in', 'en', 20, 1);
INSERT INTO tracker.counter (run_id, account, label, subset, n) VALUES (1, 'finished', 'success', 'en', 20);
"""


@pytest.fixture
def old(server: str) -> Iterator[str]:
    """The URL of a database of the first release."""
    name = f"shoal_old_{uuid4().hex[:8]}"
    url = make_conninfo(server, dbname=name)
    with connect(server) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        with connect(url) as connection:
            connection.execute(script("roles.sql").encode())
        engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool)
        with engine.begin() as begun:
            begun.exec_driver_sql("SET LOCAL ROLE shoal_owner")
            command.upgrade(_configuration(begun), "0001")
            begun.exec_driver_sql(function_files()["post"])  # it takes an account, so it hangs on the type
        engine.dispose()
        yield url
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def test_labels_that_an_earlier_step_of_the_same_transaction_added_are_carried_over(old: str, template: str) -> None:
    assert template
    script = (Path(__file__).parents[3] / "migrations" / "versions" / "0004_retention.sql").read_bytes()
    with connect(old) as connection, connection.transaction(force_rollback=True):
        connection.execute("ALTER TYPE tracker.account ADD VALUE 'other'")
        connection.execute(script)
        labels = scalar(connection, "SELECT enum_range(NULL::tracker.account)::text")
        assert str(labels).endswith("other,packed,stored,bloom}")


def stored(connection: Connection, label: str | None) -> object:
    return scalar(connection, "SELECT sum(n) FROM tracker.tally WHERE label IS NOT DISTINCT FROM %s", label)


def test_an_older_crawl_is_counted_and_keeps_its_pictures(old: str, template: str, tmp_path: Path) -> None:
    assert template  # the roles of the server are made one after the other
    with connect(old) as connection:
        connection.execute(BEFORE.encode())
        migrate(old)
        assert audit(connection).holds  # no entry was lost with the type
        assert (stored(connection, "bytes"), stored(connection, "written"), stored(connection, "samples")) == (
            1000,
            1000,
            10,
        )
        assert scalar(connection, "SELECT sum(n) FROM tracker.tally WHERE account = 'packed'") == 27
        assert scalar(connection, "SELECT keep_shards FROM tracker.run") == "forever"
        assert retain(connection, str(tmp_path)) == Deleted()
        connection.execute("UPDATE tracker.run SET keep_shards = '24h'")
        (tmp_path / "old" / "shards").mkdir(parents=True)
        (tmp_path / "old" / "shards" / "1.parquet").touch()
        assert retain(connection, str(tmp_path)) == Deleted(shards=1, bytes=600)  # the filtered one
