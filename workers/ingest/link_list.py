"""Link lists: an ingest worker reads a piece of a list into packs, which are then ingested like a crawl's packs.

    claim a piece → read_list → complete (each pack is listed, and each of its files becomes an ingest job)

So the candidates of a list are like those of a crawl: a pack and a row identify them, and the store has a copy from
which the Bloom filter can be rebuilt after the list is gone.

Rejected: COPY directly from the list: the holder of each slot would have to read the whole list for its share.
"""

from collections.abc import Mapping

from dataset.candidates.link_list_rows import ListPiece
from dataset.candidates.link_lists import read_list
from tracker.protocol.session import Job
from workers.files.link_list_file import open_link_list
from workers.runtime.context import WorkContext


def is_list(job: Job) -> bool:
    """Return whether an ingest job is a piece of a link list rather than a pack."""
    return "list" in job.payload


def ingest_list(job: Job, context: WorkContext) -> Mapping[str, object]:
    """Read the job's piece into packs and complete the job; return the facts for the log line.

    Raises: ListGoneError, DatasetError when the list cannot be read; the job fails and is tried again.
    """
    recipe = context.follow(job)
    said = job.payload
    names = said["columns"]
    piece = ListPiece(
        format=said["format"],
        url=names["url"],
        caption=names["caption"],
        language=names["language"],
        extra={name: recipe.extra[name] for name in said["extra"]},
        first_group=said["first_group"],
        groups=said["groups"],
        detect_language=said["detect_language"],
        rule=recipe.language.rule,
        is_gzip=said["is_gzip"],
    )
    slots = int(context.session.settings["bloom_slots"])
    in_parts = said["format"] == "parquet"
    with open_link_list(said["list"], said["bytes"], in_parts=in_parts, pause=context.pause) as source:
        report = read_list(
            source,
            piece,
            slots=slots,
            write=lambda pack, slot: context.store.write(f"{_stem(job, pack)}.{slot}.parquet"),
            on_progress=context.step,
            metadata={"list": said["list"]},
        )
    packs = [
        [
            {"rows": rows, "bytes": context.store.size(f"{_stem(job, pack)}.{slot}.parquet")}
            for slot, rows in enumerate(counts)
        ]
        for pack, counts in enumerate(report.packs)
    ]
    context.session.complete_list(job, report.to_json() | {"packs": packs})
    return {"rows": report.rows, "candidates": report.candidates, "packs": len(packs)}


def _stem(job: Job, pack: int) -> str:
    return f"{job.output}-{pack:05d}"
