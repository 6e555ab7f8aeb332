"""`dataset tag`: all steps on this machine, in threads; an interrupted call goes on where it was."""

from collections.abc import Callable, Mapping
from functools import partial

import threadpoolctl

from dataset.formats.releases import Release
from dataset.formats.side_tables import TAGS, SideTable, read_side_tables
from dataset.stats.threads import map_in_order
from dataset.tagging.errors import TaggingError
from dataset.tagging.given_heads import GivenHead, reads_embeddings
from dataset.tagging.jobs import run_unit_of
from dataset.tagging.options import UNIT_PICTURES, UNIT_ROWS, Options
from dataset.tagging.work import Work, choose_folder
from dataset.tags.heads import Kind

Progress = Callable[[str, int, int], None]


def tag(
    release: Release,
    heads: Mapping[str, GivenHead],
    *,
    model: str = "",
    threads: int = 1,
    restart: bool = False,
    on_progress: Progress = lambda *_: None,
    unit_rows: int = UNIT_ROWS,
    unit_pictures: int = UNIT_PICTURES,
) -> SideTable:
    """Write the tags of a release's rows, and return their table.

    A table that these heads have written for the same version is kept, unless with `restart`.

    Raises: TaggingError, HeadError; SelectError, ManifestError when pictures cannot be found; StoreError.
    """
    if any(map(reads_embeddings, heads.values())):
        model = model or choose_folder(release, heads)
    elif model:
        raise TaggingError("No head reads embeddings: leave --model out.")
    options = Options(
        heads={name: given.choice for name, given in heads.items()},
        model=model,
        unit_rows=unit_rows,
        unit_pictures=unit_pictures,
    )
    work = Work(release, options, heads)
    if not restart and (written := _written(release, options)):
        work.delete()
        return written
    begun = None if restart else work.begun
    if begun is None or begun.options != options or begun.version != release.record.version:
        work.delete()
    with threadpoolctl.threadpool_limits(1):
        for step in work.plan.steps:
            do = partial(run_unit_of, work, step.name)
            for done, _ in enumerate(map_in_order(do, range(step.units), threads), 1):
                on_progress(step.name, done, step.units)
    return read_side_tables(release)[TAGS]


def _written(release: Release, options: Options) -> SideTable | None:
    """Return the table if these heads have written it for this version."""
    table = read_side_tables(release).get(TAGS)
    if table is None or table.version != release.record.version:
        return None
    for name, choice in options.heads.items():
        head = table.heads.get(name)
        wanted = options.model if choice.kind is Kind.EMBEDDING else ""
        if head is None or (head.sha256, head.reads) != (choice.sha256, wanted):
            return None
    return table
