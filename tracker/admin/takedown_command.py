"""`tracker takedown`: blank the waiting links that deny lists name."""

from datetime import UTC, datetime

import pyarrow as pa
from rich.progress import Progress

from tracker import strict_json
from tracker.accounts.changes import record
from tracker.accounts.waiting_links import Blanked, blank_links
from tracker.admin.console import Json, app, open_tracker, tell
from tracker.database.database import Connection, translated
from tracker.duties.deny_lists import register_deny_lists
from tracker.errors import TrackerError
from tracker.settings import Settings
from tracker.storage.deny_lists import LinkRules, list_deny_files, read_deny_list
from tracker.storage.open import open_store
from tracker.storage.whole_files import put_whole

TRACKER = "SELECT tracker FROM tracker.identity"


@app.command("takedown")
def takedown(as_json: Json = False) -> None:
    """Blank waiting links that deny lists name.

    Waiting links are in the pool, in again and in batches that are not leased. The lists are those of the store,
    written by `dataset takedown add`. A blank link ends as blocked.
    """
    store = Settings.from_environment().store
    with open_tracker() as connection, Progress(transient=True) as bars:
        register_deny_lists(connection, store)  # links that come in from now on are refused
        paths = list_deny_files(store)
        rules = LinkRules()
        for path in paths:
            rules.add(read_deny_list(store, path))
        task = bars.add_task("reading links")
        done = blank_links(connection, rules, lambda at, of: bars.update(task, completed=at, total=of))
        _note(connection, store, paths, done)
    data = {"lists": len(paths), "links": done.links, "held_batches": done.held_batches}
    later = f"; {done.held_batches} batches are being downloaded: call again later" if done.held_batches else ""
    tell(data, as_json, f"{done.links} links of {len(paths)} deny lists were blanked{later}")


def _note(connection: Connection, store: str, paths: list[str], done: Blanked) -> None:
    """Record in the store which lists were applied to this tracker's links; `dataset takedown verify` reads the
    record.
    """
    with translated(), connection.transaction():
        row = connection.execute(TRACKER).fetchone()
        assert row is not None
        record(connection, "takedown", f"{len(paths)} lists", before=None, after={"links": done.links})
    said = {"deny": paths, "time": datetime.now(UTC).isoformat(), "links": done.links, "held": done.held_batches}
    try:
        put_whole(open_store(store), f"takedowns/waiting/{row['tracker']}.json", strict_json.dumps(said).encode())
    except (pa.ArrowException, OSError) as error:
        raise TrackerError(f"the takedown cannot be recorded in {store}: {error}; check SHOAL_STORE") from error
