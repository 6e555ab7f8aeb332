"""`tracker embed`: seed jobs of a second model, one for each part of a run, or for each tar of a folder.

Invariant: a name has one model in a run, and a source is seeded once, so the command may be called again when there are
more parts. The first worker settles the model's checksums; until then, another call can correct a wrong model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa
import pyarrow.fs as pafs
from psycopg.types.json import Jsonb

from tracker.database.database import Connection, Row, query, translated
from tracker.errors import TrackerError
from tracker.seeding.names import NAME, path_name
from tracker.settings import absolute_location
from tracker.storage.open import open_store

HUB_PREFIX = "hf-hub:"
TARS = (".tar", ".tar.gz", ".tgz")
TARS_AT_ONCE = 1_000

SELECT_RUN = "SELECT run_id FROM tracker.run WHERE name = %s"
SELECT_MODEL = "SELECT model, pretrained FROM tracker.embedding WHERE run_id = %(run_id)s AND name = %(name)s"


@dataclass(frozen=True, slots=True)
class Model:
    """A model as in a recipe; `name` is the name of its embeddings."""

    model: str
    pretrained: str | None
    name: str

    @classmethod
    def checked(cls, model: str, pretrained: str | None, name: str | None) -> "Model":
        """Return the model that the command line names.

        Raises:
            TrackerError: weights are missing or named twice, or the name cannot be a folder.
        """
        if model.startswith(HUB_PREFIX) != (pretrained is None):
            raise TrackerError(
                f"the weights of {model} are not clear: an {HUB_PREFIX} id includes its weights, any other name needs "
                "--pretrained with a tag, a file, a folder or store:models/NAME"
            )
        wanted = name if name is not None else path_name(model.removeprefix(HUB_PREFIX))
        if not NAME.fullmatch(wanted):
            raise TrackerError(
                f"'{wanted}' cannot name embeddings: give --name up to 64 letters, digits, '.', '_' and '-'"
            )
        return cls(model, pretrained, wanted)


@dataclass(frozen=True, slots=True)
class Seeded:
    """What was seeded; `gone` sources are left out, because their pictures are deleted."""

    run: str
    sources: int
    new: int
    gone: int = 0


def embed_run(connection: Connection, run: str, model: Model) -> Seeded:
    """Add a job for each part of a run with samples (without a filter: for each shard) that has none for this model.

    Raises:
        TrackerError: there is no such run, or the name belongs to another model.
    """
    with translated(), connection.transaction():
        run_id = _run_id(connection, run)
        if run_id is None:
            raise TrackerError(f"there is no run {run}: tracker status --json lists them; for tars give --folder")
        _settle(connection, run, run_id, model)
        row = connection.execute(query("embed_run"), {"run_id": run_id, "name": model.name}).fetchone()
    assert row is not None
    return Seeded(run, row["sources"], row["new"], row["gone"])


def embed_folder(connection: Connection, folder: str, model: Model, run: str | None) -> Seeded:
    """Add a job for each tar in a folder and its subfolders that has none for this model; create the run if needed.

    Raises:
        TrackerError: the folder cannot be read or contains no tar, the run's name is invalid, or as `embed_run`.
    """
    place = absolute_location(folder)
    tars = _tars(place)
    name = run if run is not None else path_name(place.rstrip("/").rpartition("/")[2])
    if not NAME.fullmatch(name):
        raise TrackerError(f"'{name}' cannot be a run's name: give a RUN of letters, digits, '.', '_' and '-'")
    new = 0
    with translated(), connection.transaction():
        connection.execute(query("insert_bare_run"), {"name": name})
        run_id = _run_id(connection, name)
        assert run_id is not None
        _settle(connection, name, run_id, model)
        pieces = iter(tars)
        while some := [
            {"path": path, "source": f"{place.rstrip('/')}/{path}"} for path in islice(pieces, TARS_AT_ONCE)
        ]:
            values = {"run_id": run_id, "name": model.name, "folder": place, "tars": Jsonb(some)}
            new += connection.execute(query("insert_tar_jobs"), values).rowcount
    return Seeded(name, len(tars), new)


def _run_id(connection: Connection, run: str) -> int | None:
    row = connection.execute(SELECT_RUN, (run,)).fetchone()
    return None if row is None else int(row["run_id"])


def _settle(connection: Connection, run: str, run_id: int, model: Model) -> None:
    values = {"run_id": run_id, "name": model.name, "model": model.model, "pretrained": model.pretrained}
    connection.execute(query("insert_embedding"), values)
    known: Row | None = connection.execute(SELECT_MODEL, values).fetchone()
    assert known is not None
    if (known["model"], known["pretrained"]) != (model.model, model.pretrained):
        raise TrackerError(
            f"run {run} has embeddings {model.name} of {known['model']} with {known['pretrained'] or 'its own weights'}"
            ": give this model another --name"
        )


def _tars(folder: str) -> Sequence[str]:
    """Return the sorted paths of the tars in a folder and its subfolders."""
    store = open_store(folder)
    try:
        below = store.get_file_info(pafs.FileSelector("", recursive=True))
    except (pa.ArrowException, OSError) as error:
        raise TrackerError(f"the folder {folder} cannot be read: {error}; give one with WebDataset tars") from error
    found = sorted(_files(below))
    if not found:
        raise TrackerError(f"{folder} contains no tar: give a folder of WebDataset shards")
    return found


def _files(infos: Sequence[pafs.FileInfo]) -> Iterator[str]:
    return (info.path for info in infos if info.is_file and info.path.endswith(TARS))
