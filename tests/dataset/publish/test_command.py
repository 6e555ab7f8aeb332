"""The command, with stores and folders of all kinds."""

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from typer.testing import CliRunner

from dataset.errors import DatasetError
from dataset.formats.releases import FileKind, open_release
from dataset.main import app
from dataset.store.store import Store
from tests.object_store import S3, serving
from tests.parts import MadeStore, in_parts, make_pair

OTHER_TRACKER = UUID("9c1f0a52-0000-4000-8000-000000000001")


@pytest.fixture
def made(tmp_path: Path) -> MadeStore:
    made = MadeStore(Store.open(str(tmp_path / "store")))
    made.put_run("crawl", in_parts([make_pair(seed) for seed in range(200)]))
    return made


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[S3]:
    with serving() as s3:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEY")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("SHOAL_S3_ENDPOINT", s3.endpoint)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        yield s3


def run(*arguments: str) -> str:
    """Run `dataset publish`, with one worker; what it raises is raised."""
    result = CliRunner().invoke(app, ["publish", *arguments, "--workers", "1"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_command_prints_what_it_added(made: MadeStore) -> None:
    made.put_run("again", in_parts([make_pair(seed) for seed in range(150, 260)]))
    arguments = ["laion", "--store", made.store.uri, "--json", "--batch"]
    first = json.loads(run(*arguments, "one", "--input", "crawl"))
    assert first["added"] == first["rows"] == {"en": 200}
    second = json.loads(run(*arguments, "two", "--input", "again"))
    assert (second["version"], second["added"], second["rows"]) == ("1.1.0", {"en": 60}, {"en": 260})
    assert second["dropped"] == {"published_before": 50}


def test_the_work_lies_at_scratch_and_is_deleted_in_the_end(made: MadeStore, tmp_path: Path) -> None:
    said = run("laion", "--store", made.store.uri, "--input", "crawl", "--scratch", str(tmp_path / "scratch"))
    assert "200  added to en" in said
    assert said.splitlines()[-1] == f"the release is in {made.store.uri}/releases/laion"
    assert made.store.list("publishing") == []
    assert Store.open(str(tmp_path / "scratch")).list() == []


def test_two_trackers_with_equal_keys_are_published_together(made: MadeStore, tmp_path: Path) -> None:
    other = MadeStore(Store.open(str(tmp_path / "other")), tracker=OTHER_TRACKER)
    other.put_run("crawl", in_parts([make_pair(seed) for seed in range(200, 300)]))
    run("laion", "--store", made.store.uri, "--input", "crawl", "--input", f"{other.store.uri}#crawl")
    release = open_release(made.store, "laion")
    assert [(one.store, one.tracker) for one in release.record.inputs] == [
        (".", str(made.tracker)),
        ("store-1", str(OTHER_TRACKER)),
    ]
    assert release.input_store("store-1").uri == other.store.uri
    (file,) = release.files(FileKind.SOURCE)
    rows = made.store.read_table(release.path(file.path)).to_pylist()
    assert len({row["key"] for row in rows}) == 200
    assert len({(row["input"], row["key"]) for row in rows}) == 300


def test_a_release_in_a_bucket_has_the_bytes_of_one_in_a_folder(made: MadeStore, s3: S3) -> None:
    bucket = MadeStore(Store.open("s3://crawl/run"))
    bucket.put_run("crawl", in_parts([make_pair(seed) for seed in range(200)]))
    for store in (made.store, bucket.store):
        run("laion", "--store", store.uri, "--input", "crawl", "--batch", "one")
    paths = made.store.list("releases")
    assert bucket.store.list("releases") == paths
    assert [bucket.store.read(path) for path in paths] == [made.store.read(path) for path in paths]


def test_an_input_without_a_run_is_refused(made: MadeStore) -> None:
    with pytest.raises(DatasetError, match="does not name a run"):
        run("laion", "--store", made.store.uri, "--input", f"{made.store.uri}#")


def test_more_workers_than_the_memory_is_enough_for_are_refused(made: MadeStore) -> None:
    arguments = ["publish", "laion", "--store", made.store.uri, "--input", "crawl", "--memory", "1"]
    refused = CliRunner().invoke(app, [*arguments, "--workers", "9"])
    assert refused.exit_code == 2
    assert "enough for 2 workers" in " ".join(refused.output.replace("│", " ").split())
