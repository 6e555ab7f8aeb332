"""`dataset match`: generated pictures against a release."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer

from dataset import strict_json
from dataset.commands.options import JsonOption, StoreOption, needs_extra
from dataset.commands.plant import find_model
from dataset.commands.progress import PhaseBars
from dataset.commands.releases import ReleaseArgument, open_named_release
from dataset.formats.release_parquet import table_writer
from dataset.store.store import Store

SCHEMA = pa.schema(
    [
        ("picture", pa.string()),
        ("verdict", pa.string()),
        ("id", pa.int64()),
        ("representative", pa.int64()),
        ("group_size", pa.int64()),
        ("cosine", pa.float32()),
        ("mirrored", pa.bool_()),
        ("rms", pa.float32()),
        ("masked_rms", pa.float32()),
        ("template_share", pa.float32()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("pdq", pa.int32()),
        ("same_bytes", pa.bool_()),
        ("prompt", pa.string()),
        ("own_prompt", pa.bool_()),
    ]
)


def match_command(
    release: ReleaseArgument,
    pictures: Annotated[Path, typer.Argument(help="Folder of generated pictures.")],
    store: StoreOption,
    out: Annotated[Path, typer.Option(help="Folder for matches.parquet and matches.html.")],
    null: Annotated[
        Path | None, typer.Option(help="Folder of pictures that the release does not have, to count errors.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            show_default="NAME.txt beside NAME.jpg",
            help="Parquet or CSV file with the columns picture and prompt.",
        ),
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Weights of the model, if the release does not name them.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find generated pictures that repeat pictures of a release: verbatim, as a template, or nearly.

    Pixels are compared with pictures that are still kept. Without them a picture is a candidate at most.
    """
    with needs_extra("release"):
        from dataset.dedup.explain import read_options
        from dataset.dedup.vectors import Vectors
        from dataset.match.match import match_pictures
        from dataset.match.page import render, said
        from dataset.match.prompts import of_pictures
        from dataset.select.pictures import read_kept
    with needs_extra():
        from dataset.models.clip import load_model
    opened = open_named_release(release, store, writable=False)
    options = read_options(opened)
    embedded_by = Vectors(opened, options.model).model
    assert embedded_by is not None
    model = load_model(
        find_model(opened, embedded_by.name, embedded_by.sha256, pretrained), Store.open(store, writable=False)
    )
    find = partial(match_pictures, opened, options, model)
    asked = of_pictures(pictures, Store.open(str(pictures), writable=False).list(), prompts)
    with PhaseBars() as bars:
        found = find(_read(pictures), partial(read_kept, opened), bars.show, asked)
        unrelated = find(_read(null), partial(read_kept, opened), bars.show) if null else None
    target = Store.open(str(out))
    with table_writer(target, "matches.parquet", SCHEMA) as writer:
        writer.write(pa.Table.from_pylist([asdict(one) for one in found.matches], schema=SCHEMA))
    target.put("matches.html", render(f"Matches with {opened.record.name}", found, unrelated).encode())
    counts = {"verdicts": said(found), "unreadable": len(found.unreadable), "copy_rate": found.copy_rate}
    if unrelated is not None:
        counts |= {"null_verdicts": said(unrelated), "null_copy_rate": unrelated.copy_rate}
    if as_json:
        sys.stdout.write(strict_json.dumps(counts) + "\n")
        return
    lines = [f"{count:>15,}  {verdict}" for verdict, count in said(found).items()]
    lines.append(f"{len(found.unreadable):>15,}  files that cannot be read")
    if unrelated is not None:
        share, _, high = unrelated.copy_rate
        lines.append(f"{share:>15.2%}  of unrelated pictures are taken for copies, at most {high:.2%}")
    sys.stdout.write("\n".join([*lines, ""]))


def _read(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a folder and its subfolders by name; a text file is a prompt."""
    store = Store.open(str(folder), writable=False)
    for path in sorted(store.list()):
        if not path.endswith(".txt"):
            yield path, store.read(path)
