"""An index in an object store: built and changed there, and searched after it was copied to a disk."""

import os
from functools import partial
from pathlib import Path

import pytest

from dataset.commands.index import find_index
from dataset.errors import DatasetError
from dataset.index.delete import delete_ids
from dataset.index.jobs import build
from dataset.index.lookup import open_index
from dataset.index.plan import IndexOptions, work_on_folder
from dataset.store.store import Store
from tests.dataset.index.made import put_vectors
from tests.object_store import BUCKET, serving


def test_an_index_is_built_and_changed_in_a_bucket_and_searched_from_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    rows = put_vectors(tmp_path / "vectors", [60])
    options = IndexOptions(model="", kind="sq16", lists=4, held_out=4)
    with serving() as served:
        for name, value in (
            ("AWS_ENDPOINT_URL", served.endpoint),
            ("AWS_ACCESS_KEY_ID", "KEYOFTHEENVIRONMENT"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ):
            monkeypatch.setenv(name, value)
        uri = f"s3://{BUCKET}/index"
        record = build(partial(work_on_folder, str(tmp_path / "vectors"), uri, options))
        assert (record.rows, record.recall) == (60, ())
        store = Store.open(uri)
        assert delete_ids(store, "", [7]).rows == 1
        with pytest.raises(DatasetError, match="copy it to a disk"):
            find_index(uri, "", None, "image")
        copy = Store.open(str(tmp_path / "copy"))
        for path in store.list():
            copy.put(path, store.read(path))
    index = open_index(tmp_path / "copy")
    assert [hits.ids[0] for hits in index.search(rows[:7], 1, probes=4)] == list(range(7))
    assert 7 not in index.search(rows[7], 60, probes=4)[0].ids
    assert index.rows([7]) == [None]
