"""`dataset takedown`: requests to remove something, and their application to releases and crawls."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from dataset import strict_json
from dataset.commands.options import JsonOption, StoreOption
from dataset.formats.deny_lists import DenyKind
from dataset.formats.takedowns import Entry, TakedownRequest
from dataset.store.store import Store
from dataset.takedown.entries import read_entries
from dataset.takedown.requests import decide, file_request, list_requests, pending_entries

takedown_app = typer.Typer(no_args_is_help=True, help="Remove rows, pictures or hosts from all that is kept.")


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
        list[Path] | None, typer.Option(help="Text, an entry per line; csv, tsv, parquet: columns. Repeatable.")
    ] = None,
    kind: Annotated[LongKind | None, typer.Option(help="Kind of a text file's hashes of 64 digits.")] = None,
    contact: Annotated[str, typer.Option(help="Who asked, and where to answer; private.")] = "",
    pending: Annotated[bool, typer.Option("--pending", help="Only file it; decide later.")] = False,
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
    """List requests; with --pending, also what they name."""
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
    accept: Annotated[bool, typer.Option("--accept/--refuse", help="Put its entries into force, or do not.")],
    note: Annotated[str, typer.Option(help="Why; private.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Decide on a request that waits; what it named is deleted from the request."""
    _tell(decide(Store.open(store), request_id, accept=accept, note=note), as_json=as_json)


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
