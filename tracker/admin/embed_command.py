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


@app.command(rich_help_panel="Jobs")
def embed(
    model: Annotated[str, typer.Option(help="One of open_clip's names, or an hf-hub: id.")],
    run: Annotated[
        str | None, typer.Argument(help="Its kept samples are embedded; with --folder, where they are listed.")
    ] = None,
    folder: Annotated[str | None, typer.Option(help="WebDataset tars of anyone's, in it and below it.")] = None,
    pretrained: Annotated[str | None, typer.Option(help="Tag, file, folder or store:models/NAME.")] = None,
    name: Annotated[str | None, typer.Option(help="What the embeddings are kept under; default: the model's.")] = None,
    as_json: Json = False,
) -> None:
    """Let workers embed a run's kept samples, or a folder of tars, with a second model; called again, what is new."""
    if run is None and folder is None:
        raise TrackerError("name a run, or the tars' --folder")
    wanted = embed_jobs.Model.checked(model, pretrained, name)
    with open_tracker() as connection, translated(), connection.transaction():
        if folder is not None:
            seeded = embed_jobs.embed_folder(connection, folder, wanted, run)
        else:
            seeded = embed_jobs.embed_run(connection, str(run), wanted)
        data = asdict(seeded) | {"name": wanted.name, "model": model, "pretrained": pretrained}
        if seeded.new:
            record(connection, "embed", seeded.run, before=None, after=data)
    said = f"run {seeded.run}: {seeded.new} new of {seeded.sources} to embed as {wanted.name}; start worker embed"
    tell(data, as_json, said)
    if seeded.gone:
        sys.stderr.write(
            f"tracker: the pictures of {seeded.gone} more are deleted, so nobody can embed them: another time let the "
            "run keep them with tracker keep-shards\n"
        )
