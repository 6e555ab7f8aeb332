"""Extract: a WAT file is read as a stream, its candidates become a pack in the store.

claim a WAT file → extract_pack → complete (the pack is listed, and each of its files becomes an ingest job)
"""

from collections.abc import Mapping, Sequence

import trio

from dataset.candidates.extract import TextRules, extract_pack
from tracker.protocol.session import Job
from workers.extract.wat_source import open_wat
from workers.runtime.context import Desk


class Extract:
    kind = "extract"

    def claim(self, desk: Desk) -> Sequence[Job]:
        return desk.session.claim()

    async def work(self, held: Sequence[Job], desk: Desk) -> Mapping[str, object]:
        return await trio.to_thread.run_sync(_extract, held[0], desk)


def _extract(job: Job, desk: Desk) -> Mapping[str, object]:
    rules = TextRules.of(desk.follow(job))
    paths = [f"{job.output}.{slot}.parquet" for slot in range(int(desk.session.settings["bloom_slots"]))]
    wat = job.payload["wat"]
    with open_wat(wat, pause=desk.pause) as source:
        report = extract_pack(
            source,
            wat=wat,
            rules=rules,
            slots=len(paths),
            write=lambda slot: desk.store.write(paths[slot]),
            on_progress=desk.step,
        )
    slots = [{"rows": rows, "bytes": desk.store.size(path)} for path, rows in zip(paths, report.slot_rows, strict=True)]
    desk.session.complete(job, report.to_json() | {"slots": slots})
    return {
        "images": report.images,
        "candidates": report.candidates,
        "corrupt_records": report.corrupt_records,
        "truncated": report.truncated,
    }
