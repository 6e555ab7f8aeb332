"""Put new deny lists into force: each becomes a hash list, which workers load before their next job, and its hosts are
blocked, which download workers learn with their next heartbeat.

A list is in force as the hash list `deny-NNNN-REQUEST`; the hosts are blocked before that name is taken, so an
interrupted round is repeated completely. A list that is removed with `tracker hash-lists remove` comes back with the
next round: what is denied is decided in the store.
"""

from dataclasses import dataclass
from uuid import uuid4

from psycopg.types.json import Jsonb

from tracker.accounts.blocks import block
from tracker.accounts.changes import record
from tracker.database.database import Connection, query, translated
from tracker.protocol.blocklist import PatternError, read_pattern
from tracker.storage.deny_lists import list_deny_files, read_deny_list
from tracker.storage.hash_lists import HashList, pack_numbers

REASON = "takedown"
KNOWN = "SELECT name FROM tracker.hash_list WHERE name = ANY (%s)"
LOCK = "LOCK TABLE tracker.hash_list IN SHARE ROW EXCLUSIVE MODE"
"""Two trackers that serve register a list once; workers read meanwhile."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A deny list that is now in force."""

    path: str
    entries: int
    hosts: int


def register_deny_lists(connection: Connection, store: str) -> list[Registered]:
    """Put those of the store's deny lists into force that are not yet, and return them.

    Raises:
        TrackerError: the store cannot be read or written, or a list is damaged.
    """
    names = {list_name(path): path for path in list_deny_files(store)}
    if not names:
        return []
    with translated():
        known = {row["name"] for row in connection.execute(KNOWN, (list(names),))}
    return [_register(connection, store, name, path) for name, path in names.items() if name not in known]


def list_name(path: str) -> str:
    """Return the name of the hash list of a deny list."""
    return f"deny-{path.rpartition('/')[2].removesuffix('.parquet')}"[:64]


def _register(connection: Connection, store: str, name: str, path: str) -> Registered:
    found = read_deny_list(store, path)
    hosts = [host for host in sorted(found.hosts) if _can_be_blocked(host)]
    if hosts:
        block(connection, hosts, REASON, is_private=True)
    data, counts = pack_numbers(found.numbers)
    listed = HashList(f"hash_lists/{uuid4().hex}.hashes", data, counts)
    with translated(), connection.transaction():
        # The file's path is logged first, so that the sweep knows the file if this process dies before the list is in
        # force.
        record(connection, "hash-lists write", listed.path, before=None, after={"list": name})
    listed.write(store)
    values = {"name": name, "reason": REASON, "path": listed.path, "sha256": listed.sha256}
    with translated(), connection.transaction():
        connection.execute(LOCK)
        if not connection.execute(KNOWN, ([name],)).fetchall():
            connection.execute(query("insert_hash_list"), values | {"hashes": Jsonb(counts)})
            record(connection, "hash-lists add", name, before=None, after=values | {"hashes": counts})
    return Registered(path, sum(counts.values()), len(found.hosts))


def _can_be_blocked(host: str) -> bool:
    """Return whether workers can block a host; the hash list refuses a host that they cannot, such as localhost."""
    try:
        read_pattern(host)
    except PatternError:
        return False
    return True
