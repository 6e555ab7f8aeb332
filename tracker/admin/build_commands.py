"""The commands `tracker index`, `tracker dedup` and `tracker tag`: begin builds over a release."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Any

import typer

from tracker.accounts.changes import record
from tracker.admin.console import Json, app, open_tracker, tell
from tracker.database.database import translated
from tracker.errors import TrackerError
from tracker.seeding.builds import Build, SeededBuild, seed_build
from tracker.seeding.dedup_jobs import QUALITY, DedupRequest, dedup_build, state_path
from tracker.seeding.index_jobs import IndexRequest, index_build
from tracker.seeding.names import NAME
from tracker.seeding.releases import ReleaseRun, delete_file, open_release_run
from tracker.seeding.tag_jobs import TagRequest, tag_build
from tracker.settings import Settings

MIN_THRESHOLD, MAX_THRESHOLD = 0.8, 0.999

Release = Annotated[str, typer.Argument(metavar="RELEASE", help="Name of a folder in releases/ of the store.")]
Model = Annotated[str, typer.Option(metavar="NAME", help="Folder below embeddings/, as dataset embeddings wrote it.")]
Restart = Annotated[bool, typer.Option("--restart", help="Begin again; a build in progress is abandoned.")]


class Modality(StrEnum):
    """Whose vectors are searched."""

    IMAGE = "image"
    TEXT = "text"
    BOTH = "both"


class Kind(StrEnum):
    """How rows are coded."""

    AUTO = "auto"
    FLAT = "flat"
    SQ16 = "sq16"
    RABITQ = "rabitq"
    PQ128 = "pq128"


@app.command()
def index(
    release: Release,
    model: Model,
    modality: Annotated[
        Modality, typer.Option(help="Which vectors to search: of pictures, texts or both.")
    ] = Modality.IMAGE,
    kind: Annotated[
        Kind, typer.Option(help="auto: flat below 20,000 rows, sq16 up to 2 million, then rabitq.")
    ] = Kind.AUTO,
    lists: Annotated[int, typer.Option(metavar="N", min=0, show_default="by size", help="Number of lists.")] = 0,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of all random choices.")] = 0,
    add: Annotated[bool, typer.Option("--add", help="Add the batches that the index lacks, as a segment.")] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="Join all segments into one, without removed rows.")
    ] = False,
    restart: Restart = False,
    as_json: Json = False,
) -> None:
    """Build the kNN index of a release through the queue.

    It writes the same files as dataset index build. If called again, it shows the progress of the build.
    """
    if add and compact:
        raise typer.BadParameter("--add and --compact are two builds: give one of them, then the other")
    modalities = ("image", "text") if modality is Modality.BOTH else (modality.value,)
    asked = [
        IndexRequest(model=model, modality=one, kind=kind.value, lists=lists, seed=seed, further=add, compact=compact)
        for one in modalities
    ]

    def plan(store: str, run: ReleaseRun) -> Sequence[Build]:
        return [index_build(store, run, one) for one in asked]

    _begin(release, model, plan, restart=restart, as_json=as_json)


@app.command()
def dedup(
    release: Release,
    model: Model,
    at: Annotated[
        float,
        typer.Option(
            metavar="COSINE",
            min=MIN_THRESHOLD,
            max=MAX_THRESHOLD,
            help="Minimum cosine of a member to its representative.",
        ),
    ] = 0.94,
    careful: Annotated[
        bool, typer.Option("--careful", help="Compare more rows, so that fewer near-duplicates are missed.")
    ] = False,
    with_pdq: Annotated[
        bool, typer.Option("--with-pdq", help="Also accept a lower cosine, if the pictures' PDQ hashes agree.")
    ] = False,
    pdq_from: Annotated[float, typer.Option(help="Minimum cosine with --with-pdq.")] = 0.90,
    quality: Annotated[
        str, typer.Option(metavar="A,B", help="Order by which a group's representative is chosen.")
    ] = ",".join(QUALITY),
    restart: Restart = False,
    as_json: Json = False,
) -> None:
    """Search a release for near-duplicates through the queue.

    It writes the same files as dataset dedup. If called again, it shows the progress of the search.
    """
    asked = DedupRequest(
        model=model,
        at=at,
        careful=careful,
        with_pdq=with_pdq,
        pdq_from=pdq_from,
        quality=[name.strip() for name in quality.split(",")],
    )

    def plan(store: str, run: ReleaseRun) -> Sequence[Build]:
        return [dedup_build(store, run, asked, restart=restart)]

    _begin(release, model, plan, restart=restart, as_json=as_json, forget=lambda run: state_path(run, model))


@app.command()
def tag(
    release: Release,
    head: Annotated[
        list[str],
        typer.Option(metavar="NAME", help="Name of a head in the store. One for each tag."),
    ],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="For heads of embeddings: the folder below embeddings/.")
    ] = "",
    restart: Restart = False,
    as_json: Json = False,
) -> None:
    """Tag the rows of a release with heads through the queue.

    It writes the same files as dataset tag. If called again, it shows the progress.
    """
    asked = TagRequest(heads=head, model=model)

    def plan(store: str, run: ReleaseRun) -> Sequence[Build]:
        return [tag_build(store, run, asked)]

    _begin(release, model or None, plan, restart=restart, as_json=as_json)


def _begin(
    release: str,
    model: str | None,
    plan: Callable[[str, ReleaseRun], Sequence[Build]],
    *,
    restart: bool,
    as_json: bool,
    forget: Callable[[ReleaseRun], str] | None = None,
) -> None:
    """Seed builds; with `restart`, delete the file in the store that `forget` names."""
    if model is not None and not NAME.fullmatch(model):
        raise TrackerError(f"{model!r} cannot be a folder of embeddings: give --model the name of one")
    store = Settings.from_environment().store
    with open_tracker() as connection, translated(), connection.transaction():
        run = open_release_run(connection, store, release)
        builds = plan(store, run)
        seeded = [seed_build(connection, run, build, restart=restart) for build in builds]
        found: list[dict[str, Any]] = [
            {**asdict(one), "target": build.target, "plan": [list(step) for step in build.plan]}
            for build, one in zip(builds, seeded, strict=True)
        ]
        for build, data in zip(builds, found, strict=True):
            if data["is_new"]:
                record(connection, build.queue, f"{run.run} {build.target}", before=None, after=data)
        if restart and forget is not None:
            delete_file(store, forget(run))
    lines = [f"{run.run} {build.target}: {_said(one, build)}" for build, one in zip(builds, seeded, strict=True)]
    tell({"run": run.run, "version": run.release.get("version"), "builds": found}, as_json, "\n".join(lines))


def _said(seeded: SeededBuild, build: Build) -> str:
    if seeded.is_finished:
        return "is built; --restart builds it again"
    units = sum(n for _, n in build.plan)
    if seeded.is_new:
        steps = ", ".join(f"{name} {n:,}" for name, n in build.plan if n)
        return f"{units:,} units ({steps}); start `worker {build.queue}`"
    return f"at step {seeded.step}, with {seeded.units_left:,} units of it left"
