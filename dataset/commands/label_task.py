"""`dataset label`: draw the pictures of a task, have people label them, and export the labels."""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from dataset import strict_json
from dataset.commands.index import find_index
from dataset.commands.options import JsonOption, StoreOption, messages, needs_extra
from dataset.commands.releases import open_named_release
from dataset.commands.search import query_model
from dataset.formats.index_files import SearchIndexError
from dataset.formats.label_files import write_labels
from dataset.formats.releases import Release
from dataset.store.store import Store

if TYPE_CHECKING:
    from dataset.index.lookup import Index
    from dataset.label.drawn_file import Drawn
    from dataset.label.labels import Labels
    from dataset.label.pictures import Pictures
    from dataset.label.tasks import Task


def label_task_command(
    task_file: Annotated[Path, typer.Argument(metavar="TASK.toml", help="Classes, guideline and draws.")],
    store: StoreOption,
    release: Annotated[
        str | None,
        typer.Argument(metavar="RELEASE", help="Its name, path or URI; not needed for --report and --export."),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(show_default="TASK.labels", help="Folder of the drawn pictures and the answers."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder below index/ of the release; not needed if there is one.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Weights for prompts, if the release does not name its model's.")
    ] = None,
    fetcher: Annotated[
        Path | None, typer.Option(help="Socket of `worker fetcher`, for pictures that are not kept.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="TCP port; 0 picks a free one.")] = 0,
    draw_only: Annotated[bool, typer.Option("--draw", help="Draw the pictures, and serve no page.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Print counts, agreement and prevalence.")] = False,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE.parquet", help="Write the labels; with RELEASE also the embeddings.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw pictures of a release once, and show them on a page of this machine until Ctrl-C.

    The page is for any number of annotators. A second call continues.
    """
    from dataset.label.drawn_file import read_drawn, write_drawn
    from dataset.label.journal import LabelError
    from dataset.label.labels import Labels
    from dataset.label.results import summarize
    from dataset.label.tasks import read_task

    task = read_task(task_file)
    folder = work or task_file.with_suffix(".labels")
    opened = None if release is None else open_named_release(release, store, writable=False)
    served = not (report or export or draw_only)
    drawn = read_drawn(folder, task)
    if drawn is None:
        if release is None or opened is None or report or export:
            raise LabelError(f"{folder} has no drawn pictures: run dataset label TASK.toml RELEASE first.")
        drawn = _draw(task, opened, release, store, model, pretrained)
        write_drawn(folder, drawn)
    if opened is not None and opened.record.name != drawn.record.release:
        raise LabelError(f"{folder} has pictures of {drawn.record.release}: give another --work for {release}.")
    if served and opened is None:
        raise typer.BadParameter("give RELEASE, or --report or --export", param_hint="RELEASE")
    header = {"task": task.name, "digest": task.digest, "release": drawn.record.release}
    names = [one.name for one in task.classes]
    with closing(Labels(folder, header, names, writable=served)) as labels:
        if served:
            assert opened is not None
            _serve(task, drawn, labels, opened, Store.open(store), fetcher, port)
        if export is not None:
            index = _index(release, store, model, needed=model is not None) if release else None
            _export(export, drawn, task, labels, index)
        if not draw_only:
            said = summarize(drawn, task, labels)
            sys.stdout.write(strict_json.dumps(said) + "\n" if as_json else _shown(said))


def _draw(
    task: "Task", opened: Release, release: str, store: str, model: str | None, pretrained: str | None
) -> "Drawn":
    from dataset.label.drawing import draw
    from dataset.side_tables.rows import ReleaseRows

    index = _index(release, store, model, needed=task.needs_index)

    def embed(texts: Sequence[str]) -> Any:
        assert index is not None
        return query_model(index.record, release, store, pretrained).embed_texts(list(texts))

    drawn = draw(ReleaseRows.open(opened), task, index, embed, len(os.sched_getaffinity(0)))
    messages.print(f"{len(drawn.rows):,} pictures of {drawn.record.release} are drawn", highlight=False)
    for reason, count in drawn.record.left_out.items():
        messages.print(f"{count:,} near prompts are left out: {reason}", highlight=False)
    if not drawn.record.groups:
        messages.print("The release has no side table duplicates: near-duplicates may be in two splits", style="yellow")
    return drawn


def _index(release: str, store: str, model: str | None, *, needed: bool) -> "Index | None":
    """Return the index of a release's pictures; None without one, unless it is `needed`."""
    try:
        path = find_index(release, store, model, "image")
    except SearchIndexError:
        if needed:
            raise
        return None
    with needs_extra("index"):
        from dataset.index.lookup import open_index
    return open_index(path)


def _serve(
    task: "Task", drawn: "Drawn", labels: "Labels", release: Release, store: Store, fetcher: Path | None, port: int
) -> None:
    from dataset.label.illegal import file_missing, report_illegal
    from dataset.label.picture_server import make_picture_app
    from dataset.label.results import items_of
    from dataset.search.server import http_server, listen

    items = items_of(drawn, task)
    file_missing(store, labels, items)
    with closing(_pictures(task, drawn, release, store, fetcher)) as pictures:
        app = make_picture_app(
            task, items, labels, pictures, lambda item, who: report_illegal(store, labels, item, who)
        )
        listening = listen("127.0.0.1", port)
        messages.print(f"http://127.0.0.1:{listening.getsockname()[1]}/", highlight=False)
        with suppress(KeyboardInterrupt), listening:
            asyncio.run(http_server(app).serve(sockets=[listening]))


def _pictures(task: "Task", drawn: "Drawn", release: Release, store: Store, fetcher: Path | None) -> "Pictures":
    """Read the pictures of rows that no takedown names."""
    from dataset.dedup.pictures import kept_thumbnails
    from dataset.label.journal import LabelError
    from dataset.label.pictures import PIXELS, Pictures
    from dataset.label.scores import rows_of
    from dataset.search.fetcher_client import FetcherClient
    from dataset.side_tables.rows import ReleaseRows
    from dataset.takedown.screen import Screen

    ids = np.array([*drawn.rows["id"].to_pylist(), *(id_ for one in task.classes for id_ in one.examples)], np.int64)
    screen = Screen.of(release, store)
    opened = ReleaseRows.open(release)
    known = {"URL", "sha256"} | (screen.columns - {"id"})
    rows = rows_of(opened, ids, sorted(known & {*opened.schema.names}))
    rows = rows.filter(pa.array(~screen.hidden(rows)))
    shown = rows["id"].to_numpy()
    messages.print(f"Reading up to {len(shown):,} pictures", highlight=False)
    kept = kept_thumbnails(release, shown, PIXELS)
    messages.print(f"{len(kept):,} of {len(np.unique(ids)):,} pictures are kept", highlight=False)
    if not kept and fetcher is None:
        raise LabelError("No picture is kept: label a release whose crawl keeps its pictures, or give --fetcher.")
    urls = dict(zip(shown.tolist(), rows["URL"].to_pylist(), strict=True))
    digests = dict(zip(shown.tolist(), rows["sha256"].to_pylist(), strict=True))
    return Pictures(kept, urls, digests, FetcherClient(fetcher) if fetcher else None)


def _export(path: Path, drawn: "Drawn", task: "Task", labels: "Labels", index: "Index | None") -> None:
    from dataset.label.journal import LabelError
    from dataset.label.results import export

    found = export(drawn, task, labels)
    write_labels(path, found)
    messages.print(f"{len(found.rows):,} labels are in {path}", highlight=False)
    if index is None:
        return
    vectors = index.embeddings(np.sort(found.rows["id"].to_numpy()))
    if missing := int((~vectors.any(axis=1)).sum()):
        raise LabelError(f"The index does not have {missing:,} of the pictures: refresh it, or export without RELEASE.")
    try:
        np.save(path.with_suffix(".npy"), vectors)
    except OSError as error:
        raise LabelError(f"Cannot write the embeddings beside {path} ({error.strerror}): name another file.") from error


def _shown(said: dict[str, Any]) -> str:
    lines = [
        f"{said['labelled']:,} of {said['pictures']:,} pictures of {said['release']} are labelled",
        f"{said['unclear']:,} unclear  {said['disputed']:,} to decide  {said['hidden']:,} hidden",
        "",
    ]
    for name, split in said["splits"].items():
        counts = "  ".join(f"{label} {count:,}" for label, count in sorted(split["labels"].items()))
        lines.append(f"{name:<11}{split['pictures']:>7,}  {counts}")
    lines += ["", *(f"{who:<20}{count:>7,} answers" for who, count in said["annotators"].items())]
    agreement = said["agreement"]
    for pair in agreement["pairs"]:
        kappa = "-" if pair["kappa"] is None else f"{pair['kappa']:.3f}"
        lines.append(f"Cohen's kappa {kappa}  {' and '.join(pair['annotators'])}, {pair['pictures']:,} pictures")
    if agreement["alpha"] is not None:
        lines.append(f"Krippendorff's alpha {agreement['alpha']:.3f}  {agreement['pictures']:,} pictures")
    lines += ["", "share of the release (95 %)"]
    for name, one in said["prevalence"].items():
        share = "     -" if one["share"] is None else f"{one['share']:6.2%}"
        lines.append(f"{share}  {one['low']:.2%} to {one['high']:.2%}  {name}, {one['answers']:,} labels")
    return "\n".join([*lines, ""])
