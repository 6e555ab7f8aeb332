"""A takedown in a bucket leaves the bytes that it leaves in a folder, and none of a removed row."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dataset.formats.takedowns import Entry
from dataset.store.store import Store, StoreError
from dataset.takedown.apply import apply_takedowns
from dataset.takedown.requests import file_request
from dataset.takedown.verify import verify_takedowns
from tests.object_store import BUCKET, DENIED, S3, serving
from tests.takedowns import make_crawl, make_release, sample

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
               "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with serving() as s3:
        for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": s3.endpoint}).items():
            monkeypatch.setenv(name, value)
        yield s3


def test_an_apply_in_a_bucket_that_is_refused_in_the_middle_ends_with_the_bytes_of_a_folder(
    tmp_path: Path, served: S3
) -> None:
    folder = make_crawl(tmp_path, 1)
    make_release(folder, index="sq16")
    named = [sample(3), sample(7)]
    file_request(folder, [Entry(kind="md5", value=row["md5"]) for row in named], "privacy", now=NOW)
    for path in (path for path in folder.list() if not path.endswith("/.lock")):
        served.store(path, folder.read(path))
    before = served.stored()
    apply_takedowns(folder, "laion", now=NOW)
    bucket = Store.open(f"s3://{BUCKET}")
    served.fail(DENIED, method="PUT", path="/extended/")
    with pytest.raises(StoreError, match="let these credentials"):
        apply_takedowns(bucket, "laion", now=NOW)
    served.heal()
    done = apply_takedowns(bucket, "laion", now=NOW)
    assert done is not None
    assert (done.version, done.removed) == ("2.0.0", {"privacy": 2})
    after = {path: data for path, data in served.stored().items() if not path.endswith("/")}
    assert after == {path: folder.read(path) for path in folder.list() if not path.endswith("/.lock")}
    gone = {path for path in before if path not in after}
    assert any("/captions/1-v1/" in path for path in gone)
    assert all(row["URL"].encode() not in data for row in named for data in after.values())
    (late,) = [path for path in gone if "/lists-" in path]
    bucket.put(late, before[late])
    (said,) = verify_takedowns(bucket, "laion", threads=2).leftovers
    assert said.startswith(late)
