"""`dataset takedown`: requests for removal, and their application to releases and crawls."""

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from dataset import strict_json
from dataset.commands.options import JsonOption, StoreOption, messages
from dataset.commands.progress import PhaseBars
from dataset.formats.deny_lists import DenyKind
from dataset.formats.takedowns import Entry, TakedownRequest
from dataset.store.store import Store
from dataset.takedown.apply import AppliedTakedowns, apply_takedowns
from dataset.takedown.digest_scan import SCANNED, scan_digests
from dataset.takedown.entries import read_entries
from dataset.takedown.requests import decide, file_request, list_requests, pending_entries
from dataset.takedown.status import release_names, takedown_status
from dataset.takedown.verify import Verified, verify_takedowns

takedown_app = typer.Typer(no_args_is_help=True, help="Remove rows, pictures or hosts from releases and crawls.")


class LongKind(StrEnum):
    """The kinds that have 64 hexadecimal digits."""

    SHA256 = "sha256"
    PDQ = "pdq"


def _repeatable(said: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=f"{said} Repeatable.")
    return option


@takedown_app.command("add")
def add(
    store: StoreOption,
    reason: Annotated[str, typer.Option(help="A word or two, published with a count: privacy, copyright, csam.")],
    url: Annotated[list[str] | None, _repeatable("URL of a picture.")] = None,
    pair_hash: Annotated[list[str] | None, typer.Option("--hash", help="A row's `hash`. Repeatable.")] = None,
    host: Annotated[list[str] | None, _repeatable("Host with its subdomains.")] = None,
    sha256: Annotated[list[str] | None, _repeatable("Of a picture.")] = None,
    md5: Annotated[list[str] | None, _repeatable("Of a picture.")] = None,
    sha1: Annotated[list[str] | None, _repeatable("Of a picture.")] = None,
    pdq: Annotated[list[str] | None, _repeatable("Of a picture; within 31 bits.")] = None,
    file: Annotated[
        list[Path] | None, typer.Option(help="Text with one entry per line, or csv, tsv, parquet. Repeatable.")
    ] = None,
    kind: Annotated[LongKind | None, typer.Option(help="Kind of the hashes with 64 digits in a text file.")] = None,
    contact: Annotated[str, typer.Option(help="Who asked, and where to answer; private.")] = "",
    pending: Annotated[bool, typer.Option("--pending", help="Only record the request; it is decided later.")] = False,
    as_json: JsonOption = False,
) -> None:
    """File a request; its entries are in force at once.

    select and search hide what it names, workers and publish refuse it.
    `dataset takedown apply` removes it.
    """
    given = {"url": url, "hash": pair_hash, "host": host, "sha256": sha256, "md5": md5, "sha1": sha1, "pdq": pdq}
    entries = [Entry(kind=name, value=value) for name, values in given.items() for value in values or ()]
    if pending and file:
        raise typer.BadParameter("--file cannot be used with --pending: name what has to be looked at")
    target = Store.open(store)
    request = file_request(target, entries, reason, files=_tables(file or [], kind), contact=contact, pending=pending)
    _tell(request, as_json=as_json)


@takedown_app.command("list")
def list_all(
    store: StoreOption,
    pending: Annotated[bool, typer.Option("--pending", help="Only requests that wait for a decision.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List requests; with --pending, also their entries."""
    source = Store.open(store, writable=False)
    requests = list_requests(source, pending=pending)
    named = {one.id: [asdict(entry) for entry in pending_entries(source, one.id)] for one in requests if pending}
    if as_json:
        said = [asdict(one) | ({"named": named[one.id]} if pending else {}) for one in requests]
        sys.stdout.write(strict_json.dumps({"requests": said}, ensure_ascii=False) + "\n")
        return
    for one in requests:
        counts = ", ".join(f"{n:,} {name}" for name, n in one.entries.items())
        sys.stdout.write(f"{one.id}  {one.state.value:<8}  {one.reason}: {counts}\n")
        for entry in named.get(one.id, []):
            sys.stdout.write(f"    {entry['kind']:<6}  {entry['value']}\n")


@takedown_app.command("decide")
def decide_request(
    request_id: Annotated[str, typer.Argument(metavar="REQUEST", help="Its id, as `list --pending` shows it.")],
    store: StoreOption,
    accept: Annotated[bool, typer.Option("--accept/--refuse", help="Put its entries into force, or refuse them.")],
    note: Annotated[str, typer.Option(help="Why; private.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Decide on a pending request; its entries are then deleted from the request."""
    _tell(decide(Store.open(store), request_id, accept=accept, note=note), as_json=as_json)


ReleaseNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RELEASE]...", show_default="all of the store", help="Names in the store."),
]


@takedown_app.command("status")
def status(store: StoreOption, releases: ReleaseNames = None, as_json: JsonOption = False) -> None:
    """Show which releases have lists to scan and to apply, and how far a scan or an apply is."""
    found = takedown_status(Store.open(store, writable=False), releases or ())
    if as_json:
        sys.stdout.write(strict_json.dumps(asdict(found)) + "\n")
        return
    lines = [f"{found.lists:,} deny lists; {found.pending:,} requests wait for a decision"]
    for one in found.releases:
        todo = f"{one.lists_to_apply:,} lists to apply" if one.lists_to_apply else "all lists are applied"
        total = f" of {one.of:,}" if one.of is not None else ""
        if one.lists_to_scan:
            todo += f", {one.lists_to_scan:,} to scan"
        if one.scanned < one.to_scan:
            todo += f"; a scan: {one.scanned:,} of {one.to_scan:,}"
        work = f"; {one.applying}: {one.done:,}{total}" if one.applying else ""
        lines.append(f"{one.name} {one.version}: {todo}{work}")
    sys.stdout.write("\n".join([*lines, ""]))


@takedown_app.command("scan")
def scan(
    store: StoreOption,
    releases: ReleaseNames = None,
    workers: Annotated[int | None, typer.Option(min=1, show_default="one per core", help="Threads.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the rows that an md5, a sha1 or a PDQ names; select and search then hide them, before an apply.

    An interrupted call continues when it is repeated.
    """
    target = Store.open(store)
    done = []
    for name in releases or release_names(target):
        with PhaseBars() as bars:
            one = scan_digests(target, name, threads=workers or len(os.sched_getaffinity(0)), on_progress=bars.show)
        done.append({"name": name, "lists": 0, "files": 0, "rows": 0} if one is None else asdict(one))
        if not as_json:
            said = f"{one.lists} lists, {one.rows:,} rows are hidden" if one else "no list to scan"
            sys.stdout.write(f"{name}: {said}\n")
    if as_json:
        sys.stdout.write(strict_json.dumps({"releases": done}) + "\n")


@takedown_app.command("apply")
def apply(
    store: StoreOption,
    releases: ReleaseNames = None,
    again: Annotated[
        bool, typer.Option("--again", help="Compare with all lists, including those that were applied before.")
    ] = False,
    everything: Annotated[
        bool,
        typer.Option("--everything", help="Also read all files of the crawls, for rows that were never published."),
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, show_default="one per core", help="Threads.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Remove the rows that deny lists name from releases, from their crawls, and from everything that was made from
    these.

    A release that loses rows gets a new MAJOR version. An interrupted call
    continues when it is repeated.
    """
    target = Store.open(store)
    done = []
    for name in releases or release_names(target):
        with PhaseBars() as bars:
            threads = workers or len(os.sched_getaffinity(0))
            one = apply_takedowns(
                target, name, again=again, everything=everything, threads=threads, on_progress=bars.show
            )
        done.append({"name": name, "lists": 0} if one is None else asdict(one))
        if not as_json:
            sys.stdout.write(f"{name}: no list to apply\n" if one is None else _applied(one))
    if as_json:
        sys.stdout.write(strict_json.dumps({"releases": done}, ensure_ascii=False) + "\n")


@takedown_app.command("verify")
def verify(
    store: StoreOption,
    releases: ReleaseNames = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Decode every file of the release and of its crawls.")
    ] = False,
    workers: Annotated[int | None, typer.Option(min=1, show_default="one per core", help="Threads.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Decode all files that may contain a removed row, and check that nothing is left.

    What cannot be proven is listed as open. Exit code 1 if something is left.
    """
    source = Store.open(store, writable=False)
    found = []
    for name in releases or release_names(source):
        with PhaseBars() as bars:
            found.append(
                verify_takedowns(
                    source,
                    name,
                    everything=everything,
                    threads=workers or len(os.sched_getaffinity(0)),
                    on_cost=lambda files, size: messages.print(f"{files:,} files of {size:,} bytes are read"),
                    on_progress=bars.show,
                )
            )
    if as_json:
        said = [asdict(one) | {"clean": one.is_clean} for one in found]
        sys.stdout.write(strict_json.dumps({"releases": said}, ensure_ascii=False) + "\n")
    for one in found if not as_json else ():
        sys.stdout.write(_verified(one))
    if not all(one.is_clean for one in found):
        raise typer.Exit(1)


def _verified(one: Verified) -> str:
    state = "nothing is left" if one.is_clean else f"something is left in {len(one.leftovers)} places"
    lines = [f"{one.release} {one.version}: {one.rows:,} rows removed, {one.files:,} files read, {state}"]
    lines += [f"  left  {sentence}" for sentence in one.leftovers]
    lines += [f"  open  {sentence}" for sentence in one.open]
    return "\n".join([*lines, ""])


def _applied(one: AppliedTakedowns) -> str:
    lines = [f"{one.name} {one.version}: {one.lists} lists applied, {one.bytes:,} bytes rewritten"]
    lines += [f"{rows:>15,}  rows removed: {reason}" for reason, rows in one.removed.items()]
    return "\n".join([*lines, ""])


def _tables(files: list[Path], kind: LongKind | None) -> Iterator[pa.Table]:
    for file in files:
        yield from read_entries(file, DenyKind(kind.value) if kind else None)


def _tell(request: TakedownRequest, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(strict_json.dumps(asdict(request), ensure_ascii=False) + "\n")
        return
    counts = ", ".join(f"{n:,} {name}" for name, n in request.entries.items())
    place = f", in {request.deny}" if request.deny else ""
    sys.stdout.write(f"{request.id} {request.state.value}: {counts}{place}\n")
    if request.deny and SCANNED & set(request.entries):
        messages.print("`dataset takedown scan` hides rows that only an md5, a sha1 or a PDQ names.")
