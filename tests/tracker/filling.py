"""Fill a tracker by hand: a run, its leaves, and candidates that a pack could have brought."""

from uuid import uuid4

from tracker.database.database import Connection
from tracker.seeding.runs import seed


def new_run(admin: Connection, name: str = "test", wats: int = 0) -> int:
    """A run with that many extract jobs; its id."""
    seed(admin, [f"/wat/{i}" for i in range(wats)], run=name, recipe=None)
    row = admin.execute("SELECT run_id FROM tracker.run WHERE name = %s", (name,)).fetchone()
    assert row is not None
    return int(row["run_id"])


def set_setting(admin: Connection, name: str, value: float) -> None:
    admin.execute("UPDATE tracker.setting SET value = to_jsonb(%s::numeric) WHERE name = %s", (value, name))


def fill_pool(admin: Connection, run_id: int, n: int, subset: str = "en", leaf: int | None = None) -> int:
    """Put `n` candidates into a leaf (the run's first of the subset), in order of pack_row, as ingest books them."""
    row = admin.execute(
        "SELECT leaf, relation FROM tracker.leaf WHERE run_id = %s AND subset = %s AND (%s::int IS NULL OR leaf = %s) "
        "ORDER BY leaf LIMIT 1",
        (run_id, subset, leaf, leaf),
    ).fetchone()
    assert row is not None
    admin.execute(
        f"INSERT INTO tracker.{row['relation']} (pack, pack_row, leaf, run_id, attempt, subset, language, url, text) "
        f"SELECT 1, i, %s, %s, 1, %s, 'en', 'http://host-' || i %% 97 || '.example/' || i || '.jpg', 'a caption ' || i "
        f"FROM generate_series(0, %s - 1) AS i".encode(),
        (row["leaf"], run_id, subset, n),
    )
    job = finished_job(admin, run_id)
    for account, of in (("in", None), ("pool", row["leaf"])):
        admin.execute(
            "INSERT INTO tracker.ledger (run_id, account, subset, leaf, n, job_id) VALUES (%s, %s, %s, %s, %s, %s)",
            (run_id, account, subset, of, n, job),
        )
    return int(row["leaf"])


def finished_job(admin: Connection, run_id: int) -> int:
    row = admin.execute(
        "INSERT INTO tracker.job (queue, run_id, state, finished_at) VALUES ('ingest', %s, 'done', now()) "
        "RETURNING job_id",
        (run_id,),
    ).fetchone()
    assert row is not None
    return int(row["job_id"])


def listed_pack(admin: Connection, run_id: int, rows: int, path: str | None = None) -> int:
    """An ingest job for a pack of so many rows, with its row in the manifest; the pack's id."""
    job = finished_job(admin, run_id)
    row = admin.execute(
        "INSERT INTO tracker.manifest (kind, run_id, job_id, lease, path, rows) VALUES ('pack', %s, %s, %s, %s, %s) "
        "RETURNING output_id, path",
        (run_id, job, uuid4(), path or f"test/packs/{uuid4()}", rows),
    ).fetchone()
    assert row is not None
    admin.execute(
        "INSERT INTO tracker.ledger (run_id, account, n, job_id) VALUES (%s, 'packed', %s, %s)", (run_id, rows, job)
    )
    admin.execute(
        "INSERT INTO tracker.job (queue, run_id, payload) VALUES ('ingest', %s, "
        "jsonb_build_object('pack', %s::bigint, 'path', %s::text, 'rows', %s::bigint))",
        (run_id, row["output_id"], row["path"], rows),
    )
    return int(row["output_id"])


def scalar(connection: Connection, statement: str, *values: object) -> object:
    row = connection.execute(statement.encode(), values).fetchone()
    assert row is not None
    return next(iter(row.values()))
