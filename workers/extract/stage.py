"""Extract: a WAT file is read as a stream, and its candidates become a pack in the store.

claim a WAT file → extract_pack → complete (the pack is listed, and each of its files becomes an ingest job)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import trio

from dataset.candidates.extract import TextRules, extract_pack
from tracker.protocol.session import Job
from workers.extract.wat_source import open_wat
from workers.runtime import metrics
from workers.runtime.context import WorkContext
from workers.runtime.loop import Stage


class Extract(Stage[Job]):
    kind = "extract"
    unit = "images"

    def claim(self, context: WorkContext) -> Sequence[Job]:
        return context.session.claim()

    async def work(self, held: Sequence[Job], context: WorkContext) -> Mapping[str, object]:
        return await trio.to_thread.run_sync(_extract, held[0], context)

    def count(self, result: Mapping[str, Any]) -> None:
        metrics.EXTRACTED.inc(result["candidates"])


def _extract(job: Job, context: WorkContext) -> Mapping[str, object]:
    rules = TextRules.of(context.follow(job))
    paths = [f"{job.output}.{slot}.parquet" for slot in range(int(context.session.settings["bloom_slots"]))]
    wat = job.payload["wat"]
    with open_wat(wat, pause=context.pause) as source:
        report = extract_pack(
            source,
            wat=wat,
            rules=rules,
            slots=len(paths),
            write=lambda slot: context.store.write(paths[slot]),
            on_progress=context.step,
        )
    slots = [
        {"rows": rows, "bytes": context.store.size(path)} for path, rows in zip(paths, report.slot_rows, strict=True)
    ]
    context.session.complete(job, report.to_json() | {"slots": slots})
    return {
        "images": report.images,
        "candidates": report.candidates,
        "corrupt_records": report.corrupt_records,
        "truncated": report.truncated,
    }
