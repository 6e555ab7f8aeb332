"""The end of a search: the record of the side table, the report for programs, the state, and the folder's cleaning."""

import hashlib
from collections import Counter

import numpy as np

from dataset import strict_json
from dataset.dedup.check import wilson_upper
from dataset.dedup.rescore import to_steps
from dataset.dedup.side_table import FileCounts, generation_to_write
from dataset.dedup.work import FORMAT, State, Work
from dataset.formats.duplicates import COLUMNS, KINDS, NAME, REPORT
from dataset.formats.json_records import from_json, to_json
from dataset.formats.side_tables import SideTable, read_side_tables
from dataset.formats.steps import UnitFile, UnitResult
from dataset.recipe.extra_columns import type_name
from dataset.side_tables.write import register_table


def finish(work: Work) -> UnitResult:
    """Register the table, write the report and the state, and delete what no later batch needs."""
    files = [
        from_json(FileCounts, work.store.read(work.path("end", "files", f"{at}.json"))) for at in range(len(work.data))
    ]
    kinds: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    cosines: Counter[str] = Counter()
    for one in files:
        kinds.update(one.kinds)
        sizes.update(one.sizes)
        cosines.update(one.cosines)
    written = tuple(one.file for one in files if one.file.rows)
    rows = sum(file.rows for file in written)
    options = work.options
    known = read_side_tables(work.release).get(NAME)
    if known is None or known.files != written:
        table = SideTable(
            name=NAME,
            version=work.release.record.version,
            generation=generation_to_write(work),
            source=f"embeddings/{options.model} at {options.at}",
            columns={field.name: type_name(field.type) for field in COLUMNS},
            rows=rows,
            files=written,
            heads={},
        )
        register_table(work.release, table)
    report = _report(work, rows, kinds, sizes, cosines)
    work.store.put(work.release.path(REPORT), (strict_json.dumps(report, indent=1) + "\n").encode())
    state = State(
        format=FORMAT,
        model=options.model,
        at=options.at,
        careful=options.careful,
        with_pdq=options.with_pdq,
        pdq_from=options.pdq_from,
        quality=options.quality,
        super_cells=work.plan.super_cells,
        cells=options.cells,
        version=work.release.record.version,
        batches=work.plan.batches,
    )
    work.store.put(work.path("state.json"), to_json(state))
    return UnitResult(rows, rows, (UnitFile(REPORT, rows, work.store.size(work.release.path(REPORT))),))


def delete_temporary(work: Work) -> None:
    """Delete what no later batch needs; called once the state is written, and again if it was interrupted."""
    for path in work.store.list(work.path("end")):
        work.store.delete(path)


def _report(
    work: Work, rows: int, kinds: Counter[str], sizes: Counter[str], cosines: Counter[str]
) -> dict[str, object]:
    parameters = work.open("parameters")
    kept, pairs = parameters.read("kept").tolist()
    checks = [work.open("end", "sizes", one) for one in range(work.plan.super_cells)]
    sampled = sum(work.open("end", "members", one).rows("sample") for one in range(work.plan.super_cells))
    missed = len(np.unique(np.concatenate([one.read("missed") for one in checks])))
    members = np.array([one.read("members") for one in checks])  # (super-cells, batches, 2)
    unchanged = int(checks[0].read("unchanged")[0])
    options = work.options
    return {
        "release": work.release.record.name,
        "version": work.release.record.version,
        "options": options.to_json(),
        "parameters": {
            "sha256": hashlib.sha256(work.store.read(work.path("parameters"))).hexdigest(),
            "gap": options.gap,
            "kept_distance": kept,
            "kept_distance_pairs": int(pairs),
            "cells": parameters.rows("below"),
            "super_cells": work.plan.super_cells,
            "rounds": work.plan.end_round,
        },
        "rows": rows,
        "representatives": kinds["self"],
        "members": {kind: kinds[kind] for kind in KINDS[1:] if kinds[kind]},
        "groups_by_lowest_size": dict(sorted(sizes.items(), key=lambda one: int(one[0]))),
        "members_by_lowest_cosine": dict(sorted(cosines.items())),
        "checks": {
            "members_compared": int(members[:, :, 0].sum()),
            "members_compared_before": int(members[:, :unchanged, 0].sum()),
            "lowest_cosine": int(members[:, :, 1].min()) / to_steps(1.0),
            "representatives_sampled": sampled,
            "with_another_at_threshold": missed,
            "share_upper_bound": round(wilson_upper(missed, sampled), 6),
        },
    }
