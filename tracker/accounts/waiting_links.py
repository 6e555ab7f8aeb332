"""Blank waiting links that are on a deny list: in the pool, in `again`, and in batches that are not leased.

A blanked link stays where it is and is counted as before: it is drawn like others and ends as blocked, and its row in
the shard is blank. So the law of conservation needs no exception. All rows are read once, about a million a second.

Rejected: deleting them, which would need an account of its own; comparing in SQL, which has no murmur hash.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from psycopg import sql

from tracker.database.database import Connection, query, translated
from tracker.storage.deny_lists import LinkRules

LEAVES = "SELECT relation FROM tracker.leaf ORDER BY leaf"
BATCHES = (
    "SELECT job_id, batch.payload FROM tracker.batch JOIN tracker.job USING (job_id) "
    "WHERE job.state <> 'leased' AND batch.payload <> '' ORDER BY job_id"
)
HELD = "SELECT count(*) AS n FROM tracker.batch JOIN tracker.job USING (job_id) WHERE state = 'leased'"
PAYLOAD = "UPDATE tracker.batch SET payload = %s WHERE job_id = %s AND payload = %s"
_URL, _TEXT = 4, 5
"""Fields of a payload's line: pack, row, attempt, language, URL, caption, and for link lists other columns."""


@dataclass(frozen=True, slots=True)
class Blanked:
    """The number of blanked links, and of leased batches, which their workers check themselves."""

    links: int
    held_batches: int


def blank_links(
    connection: Connection, rules: LinkRules, on_table: Callable[[int, int], None] = lambda *_: None
) -> Blanked:
    """Blank the links that are denied; `on_table` is called with the number of tables read so far, and of all tables.

    Raises:
        TrackerError: the database fails; the next call reads everything again.
    """
    links = 0
    with translated():
        relations = [row["relation"] for row in connection.execute(LEAVES).fetchall()] + ["again"]
        for done, relation in enumerate(relations, 1):
            links += _blank_table(connection, rules, relation)
            on_table(done, len(relations))
        for row in connection.execute(BATCHES).fetchall() if rules else ():
            lines = row["payload"].split("\n")
            blank = [_blanked(line, rules) for line in lines]
            if blank != lines:
                changed = connection.execute(PAYLOAD, ("\n".join(blank), row["job_id"], row["payload"])).rowcount
                links += changed * sum(one != line for one, line in zip(blank, lines, strict=True))
        held = connection.execute(HELD).fetchone()
    assert held is not None
    return Blanked(links, held["n"])


def _blank_table(connection: Connection, rules: LinkRules, relation: str) -> int:
    found = [(place, url) for place, url, text in _waiting(connection, relation) if rules.matches(url, text)]
    if not found:
        return 0
    places, urls = ([one[at] for one in found] for at in (0, 1))
    statement = _statement("blank_links", relation)
    return int(connection.execute(statement, {"places": places, "urls": urls}).rowcount)


def _waiting(connection: Connection, relation: str) -> Iterator[tuple[str, str, str]]:
    with connection.cursor().copy(_statement("waiting_links", relation)) as copy:
        for place, url, text in copy.rows():
            yield str(place), str(url), str(text)


def _statement(name: str, relation: str) -> sql.Composed:
    text = query(name).decode()
    return sql.SQL(text).format(relation=sql.Identifier(relation))


def _blanked(line: str, rules: LinkRules) -> str:
    fields = line.split("\t", maxsplit=6)
    if len(fields) <= _TEXT or not rules.matches(fields[_URL], fields[_TEXT]):
        return line
    return "\t".join([*fields[:3], "", "", ""])
