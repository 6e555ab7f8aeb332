"""Make the plan: describe and compare the inputs, divide their parts into groups, and choose the batch's name.

Groups and ranges are sized for the memory of one worker; the bytes of the release do not depend on them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import islice

import pyarrow as pa

from dataset.formats.deny_lists import list_deny_files
from dataset.formats.json_records import to_json
from dataset.formats.releases import (
    MAX_NAME,
    NAME_CHARACTERS,
    CardDetails,
    FileKind,
    Release,
    ReleaseInput,
    ReleaseOptions,
    find_release,
    open_input_store,
)
from dataset.publish.errors import PublishError
from dataset.publish.inputs import InputName, Part, list_parts, open_part, read_head, read_tracker
from dataset.publish.plan import Plan, Work, claim_release, load_work, work_place, writer_name
from dataset.publish.predicates import parse_predicate
from dataset.store.store import Store

PARENT_BYTES = 100 << 20
SORTING_BYTES = 140 << 20
"""Memory of a worker in the run phase, in addition to its rows."""
WRITING_BYTES = 300 << 20
"""Memory of a worker in the file phase: four files with groups of 100,000 rows, and the counts of its statistics. With
these numbers, 2 million rows and two workers were measured to use 1,019 to 1,243 MiB when 1,024 are allowed.
"""
MIN_WORKING_BYTES = 50 << 20
"""Minimum memory for the rows of a worker's unit; with less, a publish of a billion rows would read a billion
sections.
"""
GROUP_COPIES = 3.5
"""Memory per row of a group: as read, sorted, and while its sections are compressed."""
RANGE_COPIES = 4.0
"""Memory per row of a range: as read, joined, selected, and waiting for a group of 100,000 rows."""
VALUE_BYTES = 200
"""Memory per value of a row, while a range of values is joined, sorted and compared."""
SAMPLED_PARTS = 4
MIN_UNIT_ROWS = 10_000
GROUP_SCHEMA = pa.schema([("path", pa.string()), ("rows", pa.int64())])
DEFAULTS = ReleaseOptions(unique=(), drop_contacts=False, mixed=False, variants={}, rows_per_file=1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The options of a publish; None means the release's value, or the default."""

    name: str
    inputs: Sequence[InputName]
    unique: tuple[str, ...] | None = None
    variants: Mapping[str, str] | None = None
    drop_contacts: bool | None = None
    mixed: bool | None = None
    rows_per_file: int | None = None
    batch: str | None = None
    card: CardDetails | None = None

    def options(self, given: ReleaseOptions) -> ReleaseOptions:
        """Return the options `given` of a release, with those of the request."""
        return ReleaseOptions(
            unique=given.unique if self.unique is None else self.unique,
            drop_contacts=given.drop_contacts if self.drop_contacts is None else self.drop_contacts,
            mixed=given.mixed if self.mixed is None else self.mixed,
            variants=given.variants if self.variants is None else self.variants,
            rows_per_file=given.rows_per_file if self.rows_per_file is None else self.rows_per_file,
        )


@dataclass(frozen=True, slots=True)
class _Description:
    input: ReleaseInput
    row_bytes: int


def open_work(store: Store, scratch: Store | None, request: Request, *, memory_bytes: int, workers: int) -> Work:
    """Continue an existing plan, or make one.

    Raises: PublishError when the existing plan is for another request, or no plan can be made.
    """
    work = load_work(store, scratch, request.name)
    if work is not None:
        _check_same(work, request)
        return work
    claim_release(store, scratch, request.name)
    place, folder = work_place(store, scratch, request.name)
    plan = _make_plan(store, place, folder, request, (memory_bytes - PARENT_BYTES) // workers)
    place.put(f"{folder}/plan.json", to_json(plan))
    return Work(store, place, folder, plan)


def most_workers(memory_bytes: int) -> int:
    """Return how many workers fit into the memory with units of a useful size; 0 if not even one fits."""
    return (memory_bytes - PARENT_BYTES) // (WRITING_BYTES + MIN_WORKING_BYTES)


def _check_same(work: Work, request: Request) -> None:
    plan = work.plan
    inputs = [(one.store, one.run) for one in plan.inputs] == [(one.store, one.run) for one in request.inputs]
    given = request.batch in (None, plan.batch) and request.card in (None, plan.card)
    if not inputs or request.options(plan.options) != plan.options or not given:
        raise PublishError(
            f"An unfinished publish of {plan.name} with other inputs or options is in {work.folder} of "
            f"{work.store.uri}: repeat the call that began it, or start again with --restart."
        )


def _make_plan(store: Store, place: Store, folder: str, request: Request, worker_bytes: int) -> Plan:
    release = find_release(store, request.name)
    options = request.options(release.record.options if release else DEFAULTS)
    for predicate in options.variants.values():
        parse_predicate(predicate)
    stores = [open_input_store(store, name.store) for name in request.inputs]
    described = [_describe(one, name) for one, name in zip(stores, request.inputs, strict=True)]
    _check_alike([*(release.record.inputs if release else ()), *(one.input for one in described)], options)
    if release:
        _check_increment(release, options, described)
    row_bytes = max(one.row_bytes for one in described)
    group_rows = _unit_rows(worker_bytes - SORTING_BYTES, row_bytes * GROUP_COPIES)
    range_rows = _unit_rows(worker_bytes - WRITING_BYTES, row_bytes * RANGE_COPIES)
    value_rows = _unit_rows(worker_bytes - SORTING_BYTES, VALUE_BYTES)
    groups, inputs = _write_groups(
        place, f"{folder}/groups.arrow", stores, [one.input for one in described], group_rows
    )
    total = sum(one.rows for one in inputs)
    today = date.today().isoformat()  # the date in the publisher's time zone
    return Plan(
        name=request.name,
        batch=_batch_name(release, request.batch, today),
        version=_next_version(release),
        previous=release.record.version if release else None,
        published=today,
        first_id=release.record.next_id if release else 0,
        first_input=len(release.record.inputs) if release else 0,
        inputs=tuple(inputs),
        options=options,
        card=request.card or (release.record.card if release else CardDetails()),
        columns=release.record.columns if release else _merge_columns(inputs),
        aesthetic=release.record.aesthetic if release else any(map(_has_aesthetic, inputs)),
        deny=tuple(list_deny_files(store)),
        earlier=_paths(release, FileKind.IDS),
        earlier_data=_paths(release, FileKind.DATA) if options.unique else (),
        groups=groups,
        ranges=_power_of_two(total // range_rows),
        value_ranges=_power_of_two(total // value_rows),
        writer=writer_name(),
    )


def _describe(store: Store, name: InputName) -> _Description:
    """Describe an input from its first parts."""
    tracker = read_tracker(store)
    head, sampled_bytes, sampled_rows = None, 0, 0
    for part in islice(list_parts(store, name.run), SAMPLED_PARTS):
        file = open_part(store, part.path)
        head = head or read_head(file.schema_arrow, part.path)
        table = file.read(use_threads=False)
        sampled_bytes += table.nbytes
        sampled_rows += len(table)
    if head is None:
        raise PublishError(
            f"The run {name.run} of {store.uri} has parts, but they have no rows: there is nothing to publish."
        )
    described = ReleaseInput(
        store=name.store,
        run=name.run,
        tracker=tracker,
        parts=0,
        rows=0,
        recipe=head.recipe,
        models=head.models,
        tags=head.tags,
        columns=head.columns,
    )
    return _Description(described, max(100, sampled_bytes // max(1, sampled_rows)))


def _check_alike(inputs: Sequence[ReleaseInput], options: ReleaseOptions) -> None:
    """Refuse crawls whose values cannot be compared, unless --mixed is given."""
    first = inputs[0]
    for other in inputs[1:]:
        for what in ("models", "tags", "columns"):
            if getattr(other, what) != getattr(first, what) and not options.mixed:
                raise PublishError(
                    f"The runs {first.run} and {other.run} have different {what}, so their values cannot be compared: "
                    "publish them separately, or with --mixed, which leaves missing values null."
                )


def _check_increment(release: Release, options: ReleaseOptions, described: Sequence[_Description]) -> None:
    record = release.record
    if replace(options, mixed=record.options.mixed) != record.options:
        raise PublishError(
            f"{record.name} was published with other options: leave the options out to keep those of the release, or "
            "publish under another name."
        )
    for one in described:
        unknown = [name for name, kind in one.input.columns.items() if record.columns.get(name) != kind]
        if unknown or (_has_aesthetic(one.input) and not record.aesthetic):
            raise PublishError(
                f"The run {one.input.run} has columns that {record.name} does not have "
                f"({', '.join(unknown) or 'aesthetic'}): publish it under another name."
            )


def _merge_columns(inputs: Sequence[ReleaseInput]) -> dict[str, str]:
    merged: dict[str, str] = {}
    for one in inputs:
        for name, kind in one.columns.items():
            if merged.setdefault(name, kind) != kind:
                raise PublishError(
                    f"The column {name} is {merged[name]} in one run and {kind} in {one.run}: publish them separately."
                )
    return merged


def _has_aesthetic(one: ReleaseInput) -> bool:
    return any(role.get("aesthetic") for role in one.tags.values())


def _write_groups(
    place: Store, path: str, stores: Sequence[Store], inputs: Sequence[ReleaseInput], group_rows: int
) -> tuple[tuple[int, ...], list[ReleaseInput]]:
    """Write the parts of each group; return the number of groups of each input, and the inputs with their parts and
    rows.
    """
    groups: list[int] = []
    counted: list[ReleaseInput] = []
    with place.write(path) as file, pa.ipc.new_file(file, GROUP_SCHEMA) as writer:
        for store, one in zip(stores, inputs, strict=True):
            number = parts = rows = 0
            for group in _grouped(list_parts(store, one.run), group_rows):
                writer.write_batch(pa.RecordBatch.from_pylist([asdict(part) for part in group], schema=GROUP_SCHEMA))
                number += 1
                parts += len(group)
                rows += sum(part.rows for part in group)
            groups.append(number)
            counted.append(replace(one, parts=parts, rows=rows))
    return tuple(groups), counted


def _grouped(parts: Iterator[Part], group_rows: int) -> Iterator[list[Part]]:
    group: list[Part] = []
    rows = 0
    for part in parts:
        if group and rows + part.rows > group_rows:
            yield group
            group, rows = [], 0
        group.append(part)
        rows += part.rows
    if group:
        yield group


def _batch_name(release: Release | None, wanted: str | None, today: str) -> str:
    """Return the requested name, or today's date, with a letter if the release already has a batch of today."""
    taken = {batch.name for batch in release.record.batches} if release else set()
    names = [wanted] if wanted else [today + letter for letter in ("", *"bcdefghijklmnopqrstuvwxyz")]
    free = [name for name in names if name not in taken]
    if not free or not set(free[0]) <= NAME_CHARACTERS or free[0].startswith(".") or len(free[0]) > MAX_NAME:
        raise PublishError(
            f"The batch {names[0][:MAX_NAME]} cannot be added: give --batch a new name of at most {MAX_NAME} "
            "letters, digits, '-', '_' and '.', not '.' first."
        )
    return free[0]


def _paths(release: Release | None, kind: FileKind) -> tuple[str, ...]:
    """Return the paths in the store of a release's files of a kind."""
    return tuple(release.path(file.path) for file in release.files(kind)) if release else ()


def _unit_rows(free_bytes: int, bytes_per_row: float) -> int:
    """Return how many rows of a unit fit into the memory, at least MIN_UNIT_ROWS, because otherwise there would be too
    many units.
    """
    return max(MIN_UNIT_ROWS, int(free_bytes / bytes_per_row))


def _power_of_two(number: int) -> int:
    """Return the first power of two above a number."""
    return 1 << number.bit_length()


def _next_version(release: Release | None) -> str:
    """Return 1.0.0, or the release's version with MINOR increased by one, because rows are added."""
    if release is None:
        return "1.0.0"
    major, minor, _ = release.record.version.split(".")
    return f"{major}.{int(minor) + 1}.0"
