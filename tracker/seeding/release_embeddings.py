"""The records of a release's embeddings, which contain the number of rows to index or to search."""

from collections.abc import Mapping
from typing import Any

from tracker.errors import TrackerError
from tracker.seeding.releases import ReleaseRun, read_json

PICTURES = "img_emb/"


def embeddings_by_batch(store: str, run: ReleaseRun, model: str) -> Mapping[str, tuple[int, ...]]:
    """Return the rows of each file of pictures' embeddings, by batch in the release's order.

    Raises:
        TrackerError: there are no embeddings of the model, or a record cannot be read.
    """
    found: dict[str, tuple[int, ...]] = {}
    for batch in batch_names(run):
        path = f"{run.run}/embeddings/{model}/{batch}/index.json"
        record = read_json(store, path)
        if record is None:
            continue
        try:
            pictures = [file for file in record["files"] if file["path"].startswith(PICTURES)]
            found[batch] = tuple(int(file["rows"]) for file in sorted(pictures, key=lambda file: str(file["path"])))
        except (KeyError, TypeError, AttributeError) as error:
            raise TrackerError(f"{path} in {store} lacks {error}: write the embeddings again with --restart") from error
    if not any(map(sum, found.values())):
        raise TrackerError(
            f"{run.run} has no embeddings of {model}: write them with dataset embeddings, and give --model the name of "
            f"a folder in {run.run}/embeddings/"
        )
    return found


def batch_names(run: ReleaseRun) -> list[str]:
    """Return the names of a release's batches, in order."""
    return [str(batch["name"]) for batch in _list(run, "batches")]


def data_files(run: ReleaseRun) -> list[Mapping[str, Any]]:
    """Return the entries of a release's data files that have rows."""
    return [file for file in _list(run, "files") if file["kind"] == "data" and file["rows"]]


def _list(run: ReleaseRun, key: str) -> list[Mapping[str, Any]]:
    value = run.release.get(key)
    if not isinstance(value, list):
        raise TrackerError(f"{run.run}/release.json lacks the list {key}: restore it, or publish the release again")
    return value
