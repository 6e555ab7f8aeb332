"""What verify cannot prove: copies outside the files that records name, each with what to do about it."""

import json
from collections.abc import Iterator
from typing import Any

from dataset.formats.deny_lists import list_deny_files
from dataset.formats.manifest import ManifestError, ManifestHead
from dataset.formats.releases import Release
from dataset.formats.takedowns import Applied, applying_plan
from dataset.store.store import Store, StoreError

WAITING = "takedowns/waiting"
"""Notes of `tracker takedown`, by the tracker's UUID."""


def open_items(store: Store, release: Release, applied: Applied, *, everything: bool) -> Iterator[str]:
    """Yield a sentence for each thing that has to be done, or looked at, by a person."""
    name = release.record.name
    left = [path for path in list_deny_files(store) if path not in applied.deny]
    if left:
        yield f"{len(left)} deny lists are not applied to {name} yet: dataset takedown apply {name}."
    if store.exists(applying_plan(name)):
        yield f"An apply to {name} is unfinished: dataset takedown apply {name}."
    if store.list(f"publishing/{name}"):
        yield f"publishing/{name} has rows of an unfinished publish: finish it, or begin it anew with --restart."
    yield from _crawls(release)
    yield from _waiting(store, release)
    yield "Unfinished files of killed programs may have rows: tracker sweep --older-than 1h --yes deletes them."
    if not everything:
        yield "Rows of the crawls that were never published were not compared: verify with --everything."
    if release.record.card.url:
        yield (f"{release.record.card.url} may keep earlier versions: squash its history, and upload the new version.")
    yield (
        "Copies that no record names: backups, versions that a bucket keeps, selections, tars and labels made of the "
        "release, and what others have downloaded, who follow by an anti-join on id with the new version."
    )


def _crawls(release: Release) -> Iterator[str]:
    for uri, run in dict.fromkeys((one.store, one.run) for one in release.record.inputs):
        try:
            ManifestHead.read(release.input_store(uri)).require_run(run, release.store)
        except (ManifestError, StoreError) as error:
            yield f"The crawl {run} of the store {uri} could not be looked at ({error}): if it exists, verify it there."


def _waiting(store: Store, release: Release) -> Iterator[str]:
    """Yield which trackers' links that wait were not compared with every list."""
    lists = set(list_deny_files(store))
    for tracker in dict.fromkeys(one.tracker for one in release.record.inputs):
        path = f"{WAITING}/{tracker}.json"
        try:
            said: dict[str, Any] = {"deny": [], "held": 0}
            said |= json.loads(store.read(path)) if store.exists(path) else {}
            missing = len(lists - set(said["deny"]))
            held = int(said["held"])
        except (ValueError, KeyError, TypeError):
            missing, held = len(lists), 0
        if missing:
            yield f"Links that wait in tracker {tracker} were not compared with {missing} lists: tracker takedown."
        elif held:
            yield f"{held} batches of tracker {tracker} were being downloaded: tracker takedown, once more."
