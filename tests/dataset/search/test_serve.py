"""`dataset serve` on a real release with its index: what is found, filtered, counted, reported and then hidden."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dataset.commands.serve_files import read_masks, read_ratings
from dataset.commands.served_indexes import open_searched
from dataset.formats.releases import Release
from dataset.index.lookup import open_index
from dataset.search.errors import SearchError, ServeError
from dataset.search.indexes import COUNTED, SearchedIndex
from dataset.store.store import Store
from tests.dataset.index.made import build_folder, build_index, made_release, put_vectors, rows_by_id, vectors_by_id
from tests.dataset.search.tiny import Answer, Client

TOKEN = "an operator's token"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    found = made_release(tmp_path_factory.mktemp("store"))
    for modality in ("image", "text"):
        build_index(found, modality=modality)
    return found


@contextmanager
def serving(arguments: Sequence[str]) -> Iterator[str]:
    """Run the command, and yield its URL."""
    command = [sys.executable, "-c", "from dataset.main import main; main()", "serve", *arguments, "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHOAL_")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        said = ""
        while not (place := re.search(r"^http://\S+:\d+", said, re.MULTILINE)):
            line = process.stderr.readline()
            assert line, said
            said += line
        try:
            yield place[0]
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0, process.stderr.read()


def test_a_release_is_served_with_filters_reports_and_the_operators_functions(release: Release, tmp_path: Path) -> None:
    ids, vectors = vectors_by_id(release)
    rows = rows_by_id(release)
    token = tmp_path / "token"
    token.write_text(TOKEN + "\n", encoding="utf-8")
    mask = tmp_path / "mask.parquet"
    Store.open(str(tmp_path)).write_table("mask.parquet", pa.table({"id": [int(ids[7])]}))
    options = ["--reports", "--operator-token", str(token), "--mask", str(mask), "--column", "LANGUAGE"]
    with serving(["laion", "--store", release.store.uri, *options]) as url:

        def ask(path: str, body: object = None, **headers: str) -> Answer:
            return Client.ask(Client(url, None, None, 0), path, body, **headers)  # type: ignore[arg-type]

        assert ask("/indices-list").json() == ["laion"]
        (described,) = ask("/api/indexes").json()["indexes"]
        assert (described["rows"], described["modalities"]) == (len(ids), ["image", "text"])
        page = ask("/api/search", {"terms": [{"id": int(ids[3])}], "limit": 100, "safe": False}).json()
        near = vectors @ vectors[3]
        expected = [one for one in ids[np.argsort(-near, kind="stable")].tolist() if one != ids[7]]
        assert [one["id"] for one in page["results"]][:20] == expected[:20]
        assert page["results"][0]["similarity"] == pytest.approx(1.0, abs=2e-3)
        assert page["results"][0]["row"]["url"] == rows[int(ids[3])]["URL"]
        safe = ask("/api/search", {"terms": [{"id": int(ids[3])}], "limit": 1_000}).json()["results"]
        assert {one["id"] for one in safe} == {one for one in rows if (rows[one]["punsafe"] or 1) < 0.45} - {
            int(ids[7])
        }
        german = {"terms": [{"vector": vectors[3].tolist()}], "filters": "lang=de", "columns": ["LANGUAGE"]}
        assert {one["row"]["LANGUAGE"] for one in ask("/api/search", german).json()["results"]} == {"de"}
        counted = sum(row.get("LANGUAGE") == "de" for row in rows.values())
        assert ask("/api/count", {"filters": "lang=de", "safe": False}).json()["rows"] == counted
        assert ask("/api/facets").json()["lang=de"] == counted
        assert ask("/api/search", {**german, "filters": "colour=red"}).status == 400
        knn = {"embedding_input": vectors[3].tolist(), "modality": "text", "num_images": 2, "indice_name": "laion"}
        assert {"url", "caption", "id", "similarity", "LANGUAGE"} <= ask("/knn-service", knn).json()[0].keys()
        assert ask("/knn-service", {**knn, "text": "a cat"}).status == 409

        operator = {"Authorization": f"Bearer {TOKEN}"}
        traced = ask(f"/api/operator/trace/{ids[3]}", **operator).json()
        assert traced["url"] == rows[int(ids[3])]["URL"]
        assert ask("/api/operator/trace/99999999", **operator).status == 404
        report = {"id": int(ids[3]), "reason": "privacy", "contact": "me@example.org"}
        assert ask("/api/reports", {**report, "reason": ""}).status == 400
        assert ask("/api/reports", {**report, "id": 99_999_999}).status == 404
        made = ask("/api/reports", report)
        assert made.status == 202
        assert ask(f"/api/rows/{ids[3]}").status == 200  # a request hides nothing before somebody has decided
        (pending,) = ask("/api/operator/reports", **operator).json()["reports"]
        assert pending["id"] == made.json()["request"]
        assert {one["kind"] for one in pending["entries"]} == {"url", "hash"}
        decision = f"/api/operator/reports/{pending['id']}"
        assert ask(decision, {"accept": True, "note": "seen"}, **operator).json()["state"] == "accepted"
        assert ask(decision, {"accept": True}, **operator).status == 404
        assert ask(f"/api/rows/{ids[3]}").status == 404
        hidden = ask("/api/search", {"terms": [{"id": int(ids[3])}], "limit": 5, "safe": False}).json()["results"]
        assert [one["id"] for one in hidden] == expected[1:6]


def test_counts_above_a_threshold_are_estimated_where_there_are_many(tmp_path: Path) -> None:
    vectors = put_vectors(tmp_path, [9_000], tables=False)
    folder, _ = build_folder(tmp_path)
    engine = SearchedIndex("folder", {"image": open_index(folder)})
    near = vectors @ vectors[0]
    for threshold in (0.6, 0.1, -0.2):
        count, real = engine.count(None, vectors[0], threshold, "image"), int((near >= threshold).sum())
        assert count.low <= real <= count.high
        assert (count.low == count.high) == (real < COUNTED)
    with pytest.raises(SearchError, match="no facet"):
        engine.parse_filter("lang=de", safe=False)
    assert engine.parse_filter("", safe=True) is None  # nothing says which rows are unsafe
    assert not engine.can_be_safe


def test_what_cannot_be_served_is_refused_in_a_sentence(release: Release, tmp_path: Path) -> None:
    searched = open_searched("laion", release.store.uri, None, {"laion"})
    assert searched.name == "laion-ViT-L-14"
    for name, wrong in (("nix.parquet", None), ("text.parquet", pa.table({"name": ["x"]}))):
        if wrong is not None:
            Store.open(str(tmp_path)).write_table(name, wrong)
        with pytest.raises(ServeError, match="a parquet file with a column id"):
            read_masks([tmp_path / name])
    for rating in range(9):
        np.save(tmp_path / f"rating{rating}.npy", np.ones((1, 4)))
    with pytest.raises(ServeError, match="rating9"):
        read_ratings(tmp_path)
    np.save(tmp_path / "rating9.npy", np.ones(5))
    with pytest.raises(ServeError, match="different dimensions"):
        read_ratings(tmp_path)
    np.save(tmp_path / "rating9.npy", np.full(4, 9))
    assert read_ratings(tmp_path)[9].tolist() == [9, 9, 9, 9]
    command = [sys.executable, "-c", "from dataset.main import main; main()", "serve", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (1, "", False)
    assert "dataset index build" in done.stderr
