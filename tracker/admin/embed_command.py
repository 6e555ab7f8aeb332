"""The command `tracker embed`: seed the jobs of a second model."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from tracker.accounts.changes import record
from tracker.admin.console import Json, app, open_tracker, tell
from tracker.database.database import translated
from tracker.errors import TrackerError
from tracker.seeding import embed_jobs


@app.command()
def embed(
    model: Annotated[str, typer.Option(help="Model name of open_clip, or an hf-hub: id.")],
    run: Annotated[
        str | None, typer.Argument(help="Run whose kept samples are embedded; with --folder, the run of the new jobs.")
    ] = None,
    folder: Annotated[
        str | None, typer.Option(help="Folder with WebDataset tars, searched with its subfolders.")
    ] = None,
    pretrained: Annotated[str | None, typer.Option(help="Weights: a tag, file, folder or store:models/NAME.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the embeddings; default: the model's name.")] = None,
    as_json: Json = False,
) -> None:
    """Embed a run's kept samples with a second model.

    With --folder, the tars of a folder. When it is called again, it adds jobs for new samples only.
    """
    if run is None and folder is None:
        raise TrackerError("name a run, or give --folder with tars")
    wanted = embed_jobs.Model.checked(model, pretrained, name)
    with open_tracker() as connection, translated(), connection.transaction():
        if folder is not None:
            seeded = embed_jobs.embed_folder(connection, folder, wanted, run)
        else:
            seeded = embed_jobs.embed_run(connection, str(run), wanted)
        data = asdict(seeded) | {"name": wanted.name, "model": model, "pretrained": pretrained}
        if seeded.new:
            record(connection, "embed", seeded.run, before=None, after=data)
    said = f"run {seeded.run}: {seeded.new} new jobs of {seeded.sources} as {wanted.name}; start `worker embed`"
    tell(data, as_json, said)
    if seeded.gone:
        sys.stderr.write(
            f"tracker: {seeded.gone} more cannot be embedded, because their pictures are deleted: keep those of "
            "the next run longer with tracker keep-shards\n"
        )
