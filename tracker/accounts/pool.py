"""The leaves of the pool: tables of at most about 20M candidates, each for one run and subset.

A leaf is small, because TABLESAMPLE visits every block number; and it belongs to one run, because a batch has one
recipe. `tracker seed` opens a run's first leaves, `tracker serve` opens another when all are full.
"""

from psycopg import sql

from tracker.database.database import Connection, query, translated
from tracker.database.enums import SUBSETS

# A batch empties whole pages, so it pays to vacuum early; the defaults are too slow for a leaf.
STORAGE = (
    "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.2, "
    "autovacuum_vacuum_cost_delay = 0"
)


def open_leaves(connection: Connection, run_id: int) -> list[str]:
    """Open a leaf for each subset of a run that has none or only full ones; return the new tables' names."""
    with translated(), connection.transaction():
        connection.execute("SET LOCAL ROLE shoal_owner")
        connection.execute("SELECT FROM tracker.run WHERE run_id = %s FOR NO KEY UPDATE", (run_id,))
        full_at = _setting(connection, "leaf_rows")
        least = {row["subset"]: row["least"] for row in connection.execute(query("least_full"), {"run_id": run_id})}
        return [_open(connection, run_id, subset) for subset in SUBSETS if least.get(subset, full_at) >= full_at]


def _open(connection: Connection, run_id: int, subset: str) -> str:
    row = connection.execute(
        "INSERT INTO tracker.leaf (run_id, subset, relation) VALUES (%s, %s, gen_random_uuid()::text) RETURNING leaf",
        (run_id, subset),
    ).fetchone()
    assert row is not None
    leaf = row["leaf"]
    relation = f"candidate_{subset}_{leaf}"
    connection.execute("UPDATE tracker.leaf SET relation = %s WHERE leaf = %s", (relation, leaf))
    # Create the table with the partition's constraint, then attach it: attaching then takes only a weak lock on the
    # parent.
    connection.execute(
        sql.SQL(
            "CREATE TABLE tracker.{relation} (LIKE tracker.candidate INCLUDING DEFAULTS, "
            "CHECK (subset = {subset} AND leaf = {leaf})) WITH ({storage})"
        ).format(relation=sql.Identifier(relation), subset=subset, leaf=leaf, storage=sql.SQL(STORAGE))
    )
    connection.execute(
        sql.SQL("ALTER TABLE tracker.{parent} ATTACH PARTITION tracker.{relation} FOR VALUES IN ({leaf})").format(
            parent=sql.Identifier(f"candidate_{subset}"), relation=sql.Identifier(relation), leaf=leaf
        )
    )
    connection.execute(sql.SQL("GRANT INSERT ON tracker.{} TO shoal_ingest").format(sql.Identifier(relation)))
    return relation


def _setting(connection: Connection, name: str) -> int:
    row = connection.execute("SELECT tracker.setting(%s) AS value", (name,)).fetchone()
    assert row is not None
    return int(row["value"])
