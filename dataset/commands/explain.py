"""`dataset dedup explain`: why a row is in its group of near-duplicates."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
import typer

from dataset import strict_json
from dataset.commands.options import JsonOption, StoreOption, messages, needs_extra
from dataset.commands.releases import ReleaseArgument, open_named_release
from dataset.errors import DatasetError
from dataset.formats.index_files import RECORD, index_path
from dataset.formats.releases import Release

if TYPE_CHECKING:
    from dataset.dedup.explain import Compared, ExplainedRow, Explanation, Nearest


def explain_command(
    release: ReleaseArgument,
    first: Annotated[int, typer.Argument(metavar="ID", help="Of a row.")],
    store: StoreOption,
    second: Annotated[int | None, typer.Argument(metavar="[ID]", help="Of another row, to compare.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="HTML file to write, with the pictures that are still kept.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Explain why a row is a member of its group, or why it was kept, and show the nearest row of another group.

    Without a kNN index of the release, all embeddings are read.
    """
    with needs_extra("release"):
        from dataset.dedup.explain import explain, read_options
        from dataset.dedup.explain_page import write_page
    opened = open_named_release(release, store, writable=False)
    ids = [first] if second is None else [first, second]
    found = explain(opened, ids, _index_search(opened, read_options(opened).model))
    if page is not None:
        write_page(opened, found, page)
        messages.print(str(page), markup=False, highlight=False)
    sys.stdout.write(strict_json.dumps(found.to_json(), ensure_ascii=False) + "\n" if as_json else _text(found))


def _index_search(release: Release, model: str) -> "Nearest | None":
    """Return the search of the release's kNN index; None without one, or without the package."""
    local = release.store.local_path(release.path(f"{index_path(model, 'image')}/{RECORD}"))
    if local is None or not local.is_file():
        return None
    try:
        from dataset.index.lookup import open_index

        index = open_index(local.parent)
    except (ModuleNotFoundError, DatasetError):
        return None

    def nearest(vector: npt.NDArray[np.float16], k: int) -> npt.NDArray[np.int64]:
        return index.search(vector[None].astype(np.float32), k)[0].ids

    return nearest


def _text(found: "Explanation") -> str:
    lines: list[str] = []
    for one in found.asked:
        row = found.rows[one]
        lines += [_row(row), *_lines_of(row)]
        if row.representative == one:
            lines.append(
                f"  kept: it represents {row.group_size:,} row{'' if row.group_size == 1 else 's'}, itself too"
            )
        else:
            compared, leader = found.to_representative[one], found.rows[row.representative]
            lines.append(
                f"  {row.kind} of {leader.id}, which is better by {compared.decided_by}{_ranks(compared, found)}"
            )
            lines += [
                f"  {_compared(compared)}",
                *_path(found, one),
                "  " + _row(leader),
                *(f"  {line}" for line in _lines_of(leader)),
            ]
        lines.append(f"  {_not_merged(found, one)}")
    if found.pair is not None:
        same = "in one group" if found.same_group else "in different groups"
        lines.append(f"{found.pair.a} and {found.pair.b}: {_compared(found.pair)}, {same}")
    return "\n".join([*lines, ""])


def _path(found: "Explanation", one: int) -> list[str]:
    path = found.paths[one]
    if path is None:
        return []
    if path.round is None:
        return [f"  its embedding is that of {path.met}, so it took part in no round"]
    which = {"earlier": "a representative of an earlier round", "round": "a row of its round"}.get(path.step, "")
    homes = f"cell {path.cell}" if path.cell == path.met_cell else f"cells {path.cell} and {path.met_cell}"
    where = "" if path.visited is None else f", compared in {path.visited}"
    return [f"  round {path.round} of {path.rounds}, with {which}: {homes}{where}"]


def _row(row: "ExplainedRow") -> str:
    return f"{row.id}  {row.url}"


def _lines_of(row: "ExplainedRow") -> list[str]:
    caption = " ".join(row.caption.split())
    values = {
        "similarity": row.similarity,
        "watermark": row.pwatermark,
        "unsafe": row.punsafe,
    }
    said = [f"{row.width} x {row.height}"] + [
        f"{name} {value:.3f}" for name, value in values.items() if value is not None
    ]
    return [f"  {caption[:76]}", f"  {', '.join(said)}"]


def _ranks(compared: "Compared", found: "Explanation") -> str:
    if compared.decided_by == "hash":
        return ""
    ranks = [found.rows[one].quality[compared.decided_by] for one in (compared.b, compared.a)]
    return f" (rank {ranks[0]} before {ranks[1]})"


def _compared(compared: "Compared") -> str:
    pdq = "no PDQ" if compared.pdq is None else f"PDQ differs in {compared.pdq} of 256 bits"
    return f"cosine {compared.cosine:.4f}, {pdq}" + (", same bytes" if compared.same_bytes else "")


def _not_merged(found: "Explanation", one: int) -> str:
    other = found.not_merged[one]
    if other is None:
        return "no row of another group is among the nearest"
    row = found.rows[other.b]
    if other.cosine < found.at:
        why = f"below {found.at:g}"
    elif row.representative != row.id:
        why = f"it is nearer to {row.representative}"
    elif found.rows[one].representative != one:
        why = f"this row is nearer to {found.rows[one].representative}"
    else:
        why = "missed by the search"
    return f"nearest that was not merged: {row.id}, {_compared(other)}: {why}"
