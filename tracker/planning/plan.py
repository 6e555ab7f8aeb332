"""Simulate a crawl before it runs: days, bottleneck, database, store and cost.

The simulation moves stocks in equal time steps: WAT files become packs, the pool, shards and parts. A stage processes
the stock before it, at its workers' rate, while its output stays below the high mark.

Every number has a source: measured here (rows and working time of each queue in the ledger), given by the caller, or
published. LAION's numbers are presets, so that a plan can be compared with what happened:

- LAION-5B: 50 billion candidates gave 5.85 billion pairs; some 300 workers of 1 to 2 vCPU did 10,000 links in
  10 to 15 minutes each (Schuhmann et al. 2022, https://arxiv.org/abs/2210.08402, and the authors' own notes).
- Downloading the list of 5.85 billion links: 10 nodes of 16 cores at 9,500 pictures/s together, 7 days; 240 TB at 384
  px, 80 TB at 224 (img2dataset's README).
- CLIP ViT-L/14 on an A100: 312 samples/s; ViT-B/32: 1,800 (clip-retrieval's README).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tracker.errors import TrackerError

Stage = Literal["extract", "ingest", "download", "filter"]
STAGES: tuple[Stage, ...] = ("extract", "ingest", "download", "filter")
Source = Literal["measured", "given", "published", "assumed"]

DAY = 86_400.0
STEPS = 2_000  # of the simulation; the number of days is then exact to 0.1 %
MOST_DAYS = 3_650.0

# The CPU time of Postgres: a draw takes 45 ms and its completion 25 ms for 10,000 links, a heartbeat 0.4 ms
# (bench_tracker).
CPU_SECONDS_A_BATCH = 0.070
CPU_SECONDS_A_BEAT = 0.0004
BEAT_SECONDS = 15.0
# A candidate in the pool, including the page's overhead, with a URL of 92 and a caption of 60 characters.
POOL_ROW_BYTES = 240.0
LEASED_ROW_BYTES = 180.0
# A Bloom filter with error rate p takes -log2(p) / ln 2 bits per key; with blocks of 256 bits it takes a fifth more
# (dataset.ingest.split_block).
BLOCKED = 1.2
# Bytes per pixel of a JPEG at quality 95; for pictures of 4:3 this gives LAION's 80 TB at 224 px on the shorter side.
JPEG_BYTES_A_PIXEL = 0.205
ASPECT = 4 / 3
# As `dataset dedup` counts a process's memory: with its libraries, and for each row of a super-cell, of which there are
# 1,024 from a billion rows on.
DEDUP_PROCESS_BYTES, DEDUP_ROW_BYTES, DEDUP_SUPER_CELLS = 500 << 20, 1_600, 1_024
# From so many rows on, embeddings of 768 float16 are copied twice, and one copy is kept (dataset/dedup/work.py).
DEDUP_COPY_FROM_ROWS, DEDUP_COPY_BYTES = 5e6, 2 * 768 * 2
# Cells grow with the rows up to a number, and then each has more rows; a sample of 24 rows a cell trains them.
DEDUP_ROWS_PER_CELL, DEDUP_MAX_CELLS, DEDUP_SAMPLE_BYTES = 220, 2**20, 24 * 3_400
# Of a row, in seconds, beyond ten million rows: a centroid that it is compared with (256 flop at 60 GFLOP/s), of which
# there are the upper cells and those below ten of them; another row, of the 13 cells that a row visits.
DEDUP_CENTROID_SECONDS, DEDUP_UPPER_CELLS_SEEN, DEDUP_PAIR_SECONDS, DEDUP_VISITS = 4.3e-9, 10, 2.5e-9, 13
# A worker that adds rows to an index has the centroids (768 float32 and the links of the graph over them) and the rows
# of a unit in memory.
INDEX_LIST_BYTES, INDEX_UNIT_BYTES, ROWS_PER_LIST, MAX_LISTS = 3_400, 1.2e9, 4_096, 2**20


@dataclass(frozen=True, slots=True)
class Number:
    """A value and its source."""

    value: float
    source: Source
    note: str


@dataclass(frozen=True, slots=True)
class Assumptions:
    """The numbers that a plan is computed from; `with_given` replaces some of them.

    Rates are candidates per second and worker, shares refer to what reaches the stage, prices are in dollars.
    """

    links: Number
    batch_size: Number
    new_share: Number
    success_share: Number
    kept_share: Number
    image_bytes: Number
    part_row_bytes: Number
    pool_high: Number
    shards_high_bytes: Number
    keep_shards_days: Number
    bloom_rate: Number
    store_price_tb_month: Number
    publish_cores: Number
    publish_rows_per_second: Number
    publish_memory_bytes: Number
    publish_work_bytes: Number
    release_row_bytes: Number
    stats_rows_per_second: Number
    dedup_rows_per_second: Number
    dedup_work_bytes: Number
    index_rows_per_second: Number
    index_row_bytes: Number
    tag_rows_per_second: Number
    tag_pictures_per_second: Number
    rates: Mapping[Stage, Number]
    workers: Mapping[Stage, Number]
    prices_hour: Mapping[Stage, Number]


@dataclass(slots=True)
class StagePlan:
    """One stage of a plan; `busy` is the share of the whole time in which it works at its full rate."""

    workers: float
    rate: float
    rows: float
    busy: float = 0.0
    days: float = 0.0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class ReleasePlan:
    """Time and space for publishing the pairs on one machine, after the crawl; not included in the crawl's days."""

    publish_seconds: float
    memory_bytes: float
    release_bytes: float
    work_bytes: float
    """Working files, in addition to the release, until it is published."""
    stats_seconds: float
    """Time to count all rows. Publish saves the counts of its releases, so their statistics take only seconds."""
    dedup_seconds: float
    """Time to find near-duplicates, on the cores of publish."""
    dedup_memory_bytes: float
    """Of all cores together; a core holds the rows of a super-cell, or one the sample that trains the cells."""
    dedup_work_bytes: float
    index_seconds: float
    """Time to put all rows into lists and encode them, on the cores of publish; without the training of the lists."""
    index_memory_bytes: float
    """Of all cores together."""
    index_bytes: float
    tag_seconds: float
    """Time to tag all rows with a head of embeddings, on the cores of publish."""
    tag_pictures_seconds: float
    """Time to tag all rows with a classifier of pictures, if all are kept."""


@dataclass(slots=True)
class Plan:
    days: float
    finished: bool
    bottleneck: Stage
    stages: dict[Stage, StagePlan]
    pairs: float
    pool_rows: float
    database_bytes: float
    database_cores: float
    draws_per_second: float
    bloom_bytes: float
    bloom_lost_links: float
    store_peak_bytes: float
    store_end_bytes: float
    cost: float
    release: ReleasePlan
    assumptions: Assumptions
    notes: list[str] = field(default_factory=list)


def jpeg_bytes(side: int) -> float:
    """Return the mean bytes of a JPEG whose shorter side is `side` pixels."""
    return JPEG_BYTES_A_PIXEL * side * side * ASPECT


def _assumed(value: float, note: str) -> Number:
    return Number(value, "assumed", note)


def _published(value: float, note: str) -> Number:
    return Number(value, "published", note)


ORDINARY = Assumptions(
    links=_assumed(5e9, "one crawl, after its own duplicates"),
    batch_size=_assumed(10_000, "setting batch_size"),
    new_share=_published(0.2, "of 40 billion links, 8 billion were unique in a public run"),
    success_share=_published(0.75, "of LAION-400M's links when the dataset was made"),
    kept_share=_published(0.16, "5.85 billion pairs of 50 billion candidates, at this success"),
    image_bytes=_assumed(55_000, "as received"),
    part_row_bytes=_assumed(250, "URL, caption, sizes, similarity, tags"),
    pool_high=_assumed(6e8, "setting pool_high"),
    shards_high_bytes=_assumed(5e13, "setting shard_bytes_high"),
    keep_shards_days=_assumed(1, "a shard is deleted a day after filtering"),
    bloom_rate=_assumed(0.01, "setting bloom_rate"),
    store_price_tb_month=_assumed(20, "object store"),
    publish_cores=_assumed(16, "of the machine that publishes"),
    publish_rows_per_second=_assumed(36_000, "a core (bench-release: 2 million rows, 2 cores), taken as linear"),
    # The number of sections read is runs times ranges; both shrink as memory grows. With 0.7 GB per core, which is
    # enough for 2 million rows, 6 billion rows would have 500 million sections of 12 rows; with 4 GB per core, 10
    # million sections of 600 rows.
    publish_memory_bytes=_assumed(4e9, "a core, so that sections stay large at billions of rows"),
    publish_work_bytes=_assumed(500, "a row: twice that of a part"),
    release_row_bytes=_assumed(199, "data, extended, source and ids (bench-release)"),
    stats_rows_per_second=_assumed(460_000, "a core (bench_stats)"),
    dedup_rows_per_second=_assumed(
        5_350, "a core at 10 million rows: 187 CPU-µs a row (bench_dedup); 87 at a million, more at more rows"
    ),
    dedup_work_bytes=_assumed(
        1_100, "a row, at most (bench_dedup); from 5 million rows on, copied embeddings are added"
    ),
    index_rows_per_second=_assumed(2_000, "a core: 0.1 ms to add and merge, 0.4 to find one of 2^20 lists (estimated)"),
    index_row_bytes=_assumed(1_720, "rabitq, 768 dimensions: 1,616 of sq16 (bench-index), and 104 of codes"),
    tag_rows_per_second=_assumed(180_000, "a core, a head of 768 dimensions with 64 hidden: read, score, write"),
    tag_pictures_per_second=_assumed(9, "a core, EfficientNet-B3 at 256 pixels; a GPU is far faster"),
    rates={
        "extract": _assumed(17_000, "a core, with language (bench-extract)"),
        "ingest": _assumed(60_000, "one process (bench-extract)"),
        "download": _published(13.3, "10,000 links in 10 to 15 minutes, LAION's workers of 1 to 2 vCPU"),
        "filter": _published(1_800, "ViT-B/32 on an A100"),
    },
    workers={
        "extract": _assumed(16, "cores"),
        "ingest": _assumed(1, "processes"),
        "download": _published(300, "LAION's"),
        "filter": _assumed(1, "GPUs"),
    },
    prices_hour={
        "extract": _assumed(0.01, "a spot vCPU"),
        "ingest": _assumed(0.01, "a spot vCPU"),
        "download": _assumed(0.01, "a spot machine of 1 to 2 vCPU"),
        "filter": _assumed(1.2, "a spot A100"),
    },
)

# The link list of LAION-5B, downloaded by ten nodes: no extract, no duplicates, no filter.
LAION_5B = replace(
    ORDINARY,
    links=_published(5.85e9, "LAION-5B's pairs"),
    new_share=_published(1, "a link list"),
    success_share=_assumed(1, "LAION's sizes are for all pictures"),
    kept_share=_published(1, "a link list"),
    image_bytes=_published(jpeg_bytes(384), "JPEG, 384 px on the shorter side"),
    shards_high_bytes=_assumed(1e15, "everything is kept"),
    keep_shards_days=_assumed(36_500, "everything is kept"),
    rates={
        "extract": _assumed(1e6, "nothing to do"),
        "ingest": _assumed(60_000, "one process"),
        "download": _published(950, "img2dataset, a node of 16 cores"),
        "filter": _published(312, "ViT-L/14 on an A100"),
    },
    workers={
        "extract": _assumed(1, "nothing to do"),
        "ingest": _assumed(1, "processes"),
        "download": _published(10, "nodes"),
        "filter": _published(32, "A100"),
    },
)
PRESETS = {"crawl": ORDINARY, "laion-5b": LAION_5B}


def with_given(assumptions: Assumptions, given: Mapping[str, float], source: Source = "given") -> Assumptions:
    """Replace numbers by name: `links`, `rates.download`, `workers.filter` and so on.

    Raises:
        TrackerError: there is no such number, or its value is out of bounds.
    """
    changed: dict[str, Any] = {}
    for name, value in given.items():
        if not 0 <= value < float("inf"):
            raise TrackerError(f"{name} cannot be {value:g}: give a number that is not negative")
        group, _, stage = name.partition(".")
        number = Number(value, source, "")
        if stage:
            if group not in {"rates", "workers", "prices_hour"} or stage not in STAGES:
                raise TrackerError(f"there is no number {name}; there are {', '.join(names())}")
            changed[group] = {**changed.get(group, getattr(assumptions, group)), stage: number}
        elif name in names():
            if name.endswith(("share", "rate")) and value > 1:
                raise TrackerError(f"{name} cannot be {value:g}: it is a share, 0 to 1")
            changed[name] = number
        else:
            raise TrackerError(f"there is no number {name}; there are {', '.join(names())}")
    return replace(assumptions, **changed)


def names() -> list[str]:
    """Return the names that `with_given` accepts."""
    single = [name for name in Assumptions.__dataclass_fields__ if name not in {"rates", "workers", "prices_hour"}]
    return single + [f"{group}.{stage}" for group in ("rates", "workers", "prices_hour") for stage in STAGES]


def make_plan(assumptions: Assumptions) -> Plan:
    """Simulate the swarm from the first WAT file to the last part."""
    a = assumptions
    links, new = a.links.value, a.links.value * a.new_share.value
    samples = new * a.success_share.value
    rows: dict[Stage, float] = {"extract": links, "ingest": links, "download": new, "filter": samples}
    stages = {
        stage: StagePlan(a.workers[stage].value, a.workers[stage].value * a.rates[stage].value, rows[stage])
        for stage in STAGES
    }
    idle = [stage for stage in STAGES if rows[stage] and not stages[stage].rate]
    if idle:
        raise TrackerError(f"{', '.join(idle)} would never end: give workers.{idle[0]} and rates.{idle[0]} above 0")
    flow = _simulate(a, stages)
    bottleneck = max(STAGES, key=lambda stage: rows[stage] / stages[stage].rate if rows[stage] else 0.0)
    plan = Plan(
        days=flow.seconds / DAY,
        finished=flow.finished,
        bottleneck=bottleneck,
        stages=stages,
        pairs=samples * a.kept_share.value,
        pool_rows=flow.peak_pool,
        database_bytes=flow.peak_pool * POOL_ROW_BYTES
        + a.workers["download"].value * a.batch_size.value * LEASED_ROW_BYTES,
        database_cores=0.0,
        draws_per_second=flow.peak_draws,
        bloom_bytes=bloom_bytes(new, a.bloom_rate.value),
        bloom_lost_links=new * a.bloom_rate.value,
        store_peak_bytes=flow.peak_store,
        store_end_bytes=flow.end_store,
        cost=0.0,
        release=_plan_release(a, samples * a.kept_share.value),
        assumptions=a,
    )
    beats = sum(number.value for number in a.workers.values()) / BEAT_SECONDS
    plan.database_cores = plan.draws_per_second * CPU_SECONDS_A_BATCH + beats * CPU_SECONDS_A_BEAT
    for stage in STAGES:
        one = stages[stage]
        one.cost = one.workers * a.prices_hour[stage].value * 24 * one.days
    plan.cost = sum(one.cost for one in stages.values()) + (
        flow.byte_seconds / 1e12 / (30 * DAY) * a.store_price_tb_month.value
    )
    _note(plan)
    return plan


def _plan_release(a: Assumptions, pairs: float) -> ReleasePlan:
    """Return the time and space of publish, stats and dedup; the first two take each row a fixed number of times."""
    cores = a.publish_cores.value
    rates = (
        a.publish_rows_per_second,
        a.stats_rows_per_second,
        a.dedup_rows_per_second,
        a.index_rows_per_second,
        a.tag_rows_per_second,
        a.tag_pictures_per_second,
    )
    if not (cores and all(rate.value for rate in rates)):
        raise TrackerError("publish would never end: give publish_cores and its rows per second above 0")
    return ReleasePlan(
        publish_seconds=pairs / cores / a.publish_rows_per_second.value,
        memory_bytes=cores * a.publish_memory_bytes.value,
        release_bytes=pairs * a.release_row_bytes.value,
        work_bytes=pairs * a.publish_work_bytes.value,
        stats_seconds=pairs / cores / a.stats_rows_per_second.value,
        dedup_seconds=pairs / cores * (1 / a.dedup_rows_per_second.value + _dedup_growth(pairs)),
        dedup_memory_bytes=max(
            cores * (DEDUP_PROCESS_BYTES + 2 * DEDUP_ROW_BYTES * pairs / DEDUP_SUPER_CELLS),
            DEDUP_PROCESS_BYTES + DEDUP_SAMPLE_BYTES * _dedup_cells(pairs),
        ),
        dedup_work_bytes=pairs * (a.dedup_work_bytes.value + DEDUP_COPY_BYTES * (pairs >= DEDUP_COPY_FROM_ROWS)),
        index_seconds=pairs / cores / a.index_rows_per_second.value,
        index_memory_bytes=cores * (INDEX_UNIT_BYTES + INDEX_LIST_BYTES * min(MAX_LISTS, pairs / ROWS_PER_LIST)),
        index_bytes=pairs * a.index_row_bytes.value,
        tag_seconds=pairs / cores / a.tag_rows_per_second.value,
        tag_pictures_seconds=pairs / cores / a.tag_pictures_per_second.value,
    )


def _dedup_cells(rows: float) -> float:
    return min(DEDUP_MAX_CELLS, rows / DEDUP_ROWS_PER_CELL)


def _dedup_growth(rows: float) -> float:
    """Return the seconds that a row costs more than one of ten million: more centroids, and more rows in a cell."""

    def seconds(count: float) -> float:
        cells = _dedup_cells(count)
        centroids = (1 + DEDUP_UPPER_CELLS_SEEN) * math.sqrt(cells)
        others = DEDUP_VISITS * count / cells if cells else 0.0
        return centroids * DEDUP_CENTROID_SECONDS + others * DEDUP_PAIR_SECONDS

    return max(0.0, seconds(rows) - seconds(1e7))


def bloom_bytes(keys: float, rate: float) -> float:
    """Return the bytes of a Bloom filter; 50 billion keys at 1 % take 72 GB in blocks, 60 GB in the classic form."""
    return keys * -math.log2(rate) / math.log(2) / 8 * BLOCKED if rate > 0 else 0.0


@dataclass(slots=True)
class _Flow:
    seconds: float = 0.0
    finished: bool = False
    peak_pool: float = 0.0
    peak_draws: float = 0.0
    peak_store: float = 0.0
    end_store: float = 0.0
    byte_seconds: float = 0.0


def _simulate(a: Assumptions, stages: Mapping[Stage, StagePlan]) -> _Flow:
    """Move the stocks in equal steps until the last part is written."""
    slowest = max(one.rows / one.rate if one.rows else 0.0 for one in stages.values())
    step = max(slowest * 1.2, 1.0) / STEPS
    to_extract, packs, pool, shards = a.links.value, 0.0, 0.0, 0.0  # links, links, links, samples
    parts = 0.0
    kept: list[float] = []  # bytes of filtered shards that are not deleted yet, by step
    keep_steps = a.keep_shards_days.value * DAY / step
    flow = _Flow()
    while flow.seconds < MOST_DAYS * DAY:
        moved = min(stages["filter"].rate * step, shards)
        shards -= moved
        parts += moved * a.kept_share.value * a.part_row_bytes.value
        kept.append(moved * a.image_bytes.value)
        _spend(stages["filter"], moved, step)

        lying = sum(kept[-int(min(keep_steps, len(kept))) :]) if keep_steps >= 1 else 0.0
        room = max(0.0, a.shards_high_bytes.value - shards * a.image_bytes.value - lying)
        fetched = min(stages["download"].rate * step, pool)
        if a.success_share.value:
            fetched = min(fetched, room / a.image_bytes.value / a.success_share.value)
        pool, shards = pool - fetched, shards + fetched * a.success_share.value
        _spend(stages["download"], fetched, step)

        taken = min(stages["ingest"].rate * step, packs)
        if a.new_share.value:
            taken = min(taken, max(0.0, a.pool_high.value - pool) / a.new_share.value)
        packs, pool = packs - taken, pool + taken * a.new_share.value
        _spend(stages["ingest"], taken, step)

        parsed = min(stages["extract"].rate * step, to_extract)
        to_extract, packs = to_extract - parsed, packs + parsed
        _spend(stages["extract"], parsed, step)

        flow.seconds += step
        flow.peak_pool = max(flow.peak_pool, pool)
        flow.peak_draws = max(flow.peak_draws, fetched / step / a.batch_size.value)
        store = shards * a.image_bytes.value + lying + parts
        flow.peak_store, flow.end_store = max(flow.peak_store, store), store
        flow.byte_seconds += store * step
        if max(to_extract, packs, pool, shards) < 1:
            flow.finished = True
            break
    for one in stages.values():
        one.busy = one.busy / flow.seconds if flow.seconds else 0.0
    return flow


def _spend(stage: StagePlan, moved: float, step: float) -> None:
    """Count a step's work. The cost of a stage runs from the beginning of the crawl to the stage's last row."""
    if stage.rate:
        stage.busy += moved / stage.rate
    if moved:
        stage.days += step / DAY


def _note(plan: Plan) -> None:
    a = plan.assumptions
    if not plan.finished:
        plan.notes.append(f"it does not end within {MOST_DAYS:.0f} days: add {plan.bottleneck} workers")
    behind = [stage for stage in STAGES if plan.stages[stage].busy < 0.5 and plan.stages[stage].workers > 1]
    if behind:
        plan.notes.append(f"idle for more than half the time: {', '.join(behind)}")
    if plan.pool_rows < 2e7 < a.links.value * a.new_share.value:
        plan.notes.append(
            "the pool stays under 20 million, so batches mix badly: use fewer download or more ingest workers"
        )
    if plan.database_cores > 1:
        plan.notes.append(f"Postgres needs {plan.database_cores:.1f} cores only for the calls of workers")
