"""An exact index of a small release, from its embeddings to results with their columns."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from dataset.formats.releases import Release
from dataset.index.domains import Domains, pack_domains
from dataset.index.filters import parse_filter
from dataset.index.lookup import Index, open_index
from dataset.main import app
from dataset.store.store import Store
from tests.dataset.index.made import build_folder, build_index, made_release, put_vectors, rows_by_id, vectors_by_id


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return made_release(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def index(release: Release) -> Index:
    return open_index(build_index(release)[0])


def test_each_row_is_found_by_its_own_vector_with_its_exact_similarity(release: Release, index: Index) -> None:
    ids, vectors = vectors_by_id(release)
    hits = index.search(vectors, 20)
    exact = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)) @ vectors.T
    for at, one in enumerate(hits):
        assert one.ids[0] == ids[at]
        assert np.allclose(one.similarities, -np.sort(-exact[at])[:20], atol=1e-6)
        assert np.allclose(one.similarities, exact[at][np.searchsorted(ids, one.ids)], atol=1e-6)
        assert one.total == len(ids)


def test_a_row_has_the_columns_of_its_data_and_extended_files(release: Release, index: Index) -> None:
    expected = rows_by_id(release)
    ids = list(expected)[::7]
    for row, known in zip(index.rows(ids), (expected[one] for one in ids), strict=True):
        assert row is not None
        assert (row["id"], row["url"], row["caption"]) == (known["id"], known["URL"], known["TEXT"])
        language = "en" if known["subset"] == "en" else known.get("LANGUAGE")
        assert (row["WIDTH"], row["HEIGHT"], row["LANGUAGE"]) == (known["WIDTH"], known["HEIGHT"], language)
        assert (row["sha256"], row["hash"], row["subset"]) == (known["sha256"], known["hash"], known["subset"])
        assert (row["similarity"], row["punsafe"]) == (known["similarity"], known["punsafe"])
        assert (row["crawl"], row["fetched"]) == ("crawl", "2026-10-01T12:00:00+00:00")
        assert row["final_host"].startswith("cdn.")
    assert index.rows([10**9, -1]) == [None, None]


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        ("safe", lambda row: row["punsafe"] < 0.45),
        ("lang=de", lambda row: row.get("LANGUAGE") == "de"),
        ("lang=de|ja,!safe", lambda row: row.get("LANGUAGE") in ("de", "ja") and not row["punsafe"] < 0.45),
        ("min-side=512,no-watermark", lambda row: min(row["WIDTH"], row["HEIGHT"]) >= 512 and row["pwatermark"] < 0.8),
        ("aspect=wide,subset=en", lambda row: row["WIDTH"] > 1.2 * row["HEIGHT"] and row["subset"] == "en"),
        ("crawl=other", lambda _: False),
    ],
)
def test_a_filter_gives_k_rows_whenever_k_rows_pass(release: Release, index: Index, where: str, passes) -> None:  # type: ignore[no-untyped-def]
    _, vectors = vectors_by_id(release)
    passing = {one for one, row in rows_by_id(release).items() if passes(row)}
    for k in (5, len(passing) + 3):
        (hits,) = index.search(vectors[:1], k, where=parse_filter(where))
        assert len(hits.ids) == min(k, len(passing))
        assert set(hits.ids.tolist()) <= passing
    assert index.count(parse_filter(where)) == len(passing)


def test_a_filter_by_host_takes_hosts_and_every_domain_above_them(release: Release, index: Index) -> None:
    rows = rows_by_id(release)
    by_host: dict[str, set[int]] = {}
    for one, row in rows.items():
        labels = row["URL"].split("/")[2].split(".")
        for at in range(len(labels)):
            by_host.setdefault(".".join(labels[at:]), set()).add(one)
    for host, passing in by_host.items():
        assert index.count(parse_filter(f"host=*.{host.upper()}.")) == len(passing)
    first, second = sorted(by_host)[:2]
    (hits,) = index.search(np.ones((1, 16), np.float32), 400, where=parse_filter(f"host={first}|{second}"))
    assert set(hits.ids.tolist()) == by_host[first] | by_host[second]
    for text, passing in (
        (f"!host={first}|{second}", set(rows) - by_host[first] - by_host[second]),
        (f"host={first}|{second},!host={second}", by_host[first]),
        (f"safe,!host={first}", {one for one, row in rows.items() if row["punsafe"] < 0.45} - by_host[first]),
    ):
        (hits,) = index.search(np.ones((1, 16), np.float32), 400, where=parse_filter(text))
        assert set(hits.ids.tolist()) == passing
        assert index.count(parse_filter(text)) == len(passing)


@pytest.mark.parametrize(
    ("url", "domains", "others"),
    [
        (
            "https://a.b.example.co.uk/x.jpg",
            ["a.b.example.co.uk", "example.co.uk", "co.uk", "uk"],
            ["a.b", "xample.co.uk"],
        ),
        ("http://127.0.0.1:80/x.jpg", ["127.0.0.1"], ["0.0.1", "1"]),
        ("http://[2001:db8::1]/x.jpg", ["2001:db8::1"], []),
        ("https://user@xn--bcher-kva.example/x", ["bücher.example", "xn--bcher-kva.example", "example"], ["user"]),
        ("https://" + "a." * 20 + "example/x.jpg", ["a." * 20 + "example", "a.example"], ["a." * 12 + "example"]),
        ("no URL", [], ["", "no"]),
        (None, [], [""]),
    ],
)
def test_the_domains_of_a_url(url: str | None, domains: list[str], others: list[str]) -> None:
    packed = pack_domains(pa.table({"URL": pa.array(["https://other.test/", url], pa.string())}))
    assert packed is not None
    found = Domains(np.frombuffer(packed, np.uint8))
    assert [found.rows(one).tolist() for one in domains] == [[1]] * len(domains)
    assert [found.rows(one).tolist() for one in others] == [[]] * len(others)


def test_facets_are_counted(release: Release, index: Index) -> None:
    rows = rows_by_id(release).values()
    found = index.facets()
    assert found["alive"] == len(rows)
    assert found["safe"] == sum(row["punsafe"] < 0.45 for row in rows)
    assert found["lang=de"] == sum(row.get("LANGUAGE") == "de" for row in rows)
    assert found["subset=en"] + found["subset=multi"] == len(rows)


def test_recall_of_an_exact_index_is_one_for_pictures_and_texts_with_and_without_a_filter(index: Index) -> None:
    found = {(row.queries, row.selectivity): row for row in index.record.recall}
    assert {queries for queries, _ in found} == {"images", "texts"}
    assert all(row.recall_at_1 == row.recall_at_10 == row.recall_at_100 == 1 for row in found.values())
    assert {selectivity for _, selectivity in found} == {1.0, 0.5, 0.1, 0.01}


def test_recall_is_not_said_where_no_row_passes_the_filter(tmp_path: Path) -> None:
    put_vectors(tmp_path, [40])
    record = build_folder(tmp_path)[1]
    assert [row.selectivity for row in record.recall if row.usual] == [1.0, 0.5, 0.1]
    assert all(row.recall_at_10 == 1 for row in record.recall)


def test_vectors_come_back_by_id(release: Release, index: Index) -> None:
    ids, vectors = vectors_by_id(release)
    assert np.array_equal(index.embeddings(ids[::3]), vectors[::3].astype(np.float16))


def test_an_index_of_texts_finds_texts(release: Release) -> None:
    folder, record = build_index(release, modality="text")
    ids, vectors = vectors_by_id(release, "text")
    assert record.modality == "text"
    assert [one.ids[0] for one in open_index(folder).search(vectors[:5], 1)] == ids[:5].tolist()


def test_near_duplicates_are_collapsed_onto_the_best_and_k_others_follow(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    originals = draw.normal(size=(40, 64))
    copies = originals[np.repeat(np.arange(40), 6)] + draw.normal(size=(240, 64)) * 0.1
    tmp_path.joinpath("v").mkdir()
    np.save(tmp_path / "v/rows.npy", np.concatenate((originals, copies)).astype(np.float32))
    folder, _ = build_folder(tmp_path / "v")
    index = open_index(folder)
    (hits,) = index.search(originals[:1].astype(np.float32), 10, collapse=True)
    rows = index.embeddings(hits.ids).astype(np.float32)
    assert len(hits.ids) == 10
    assert np.all((rows @ rows.T)[~np.eye(10, dtype=bool)] < 0.94)
    assert hits.left_out[0] == 6
    (every,) = index.search(originals[:1].astype(np.float32), 280, collapse=True)
    assert len(every.ids) < 60


def test_two_commands_lead_from_vectors_to_results(tmp_path: Path) -> None:
    rows = put_vectors(tmp_path / "mine", [30, 25])
    built = CliRunner().invoke(app, ["index", "build", str(tmp_path / "mine"), "--json"])
    assert built.exit_code == 0, built.output
    assert json.loads(built.stdout)["rows"] == 55
    np.save(tmp_path / "query.npy", rows[41:42])
    command = ["search", str(tmp_path / "mine"), "--vector", str(tmp_path / "query.npy"), "--k", "3", "--json"]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 0, found.output
    first, *others = [json.loads(line) for line in found.stdout.splitlines()]
    assert (first["id"], first["url"], first["tags"]) == (41, "https://www.host1.example/1/11.jpg", '["11"]')
    assert len(others) == 2
    plain = CliRunner().invoke(app, [*command[:-1], "--filter", "host=host1.example"])
    assert "3 of 11 rows that pass the filter" in plain.stdout
    card = (tmp_path / "mine/index/vectors/image/README.md").read_text(encoding="utf-8")
    assert "| images | 100% | 1 | " in card
    assert "55 rows of 16 dimensions" in card
    info = CliRunner().invoke(app, ["index", "info", str(tmp_path / "mine")])
    assert "55  rows of 16 dimensions in 1 lists" in info.stdout


def test_vectors_without_a_table_are_enough(tmp_path: Path) -> None:
    rows = put_vectors(tmp_path, [40], tables=False)
    folder, _ = build_folder(tmp_path)
    index = open_index(folder)
    (hits,) = index.search(rows[3], 2)
    assert hits.ids[0] == 3
    assert index.rows([3]) == [{"id": 3}]


def test_the_command_builds_and_searches_a_release_by_name(release: Release, tmp_path: Path) -> None:
    store = release.store.uri
    built = CliRunner().invoke(app, ["index", "build", "laion", "--store", store, "--json"])
    assert built.exit_code == 0, built.output
    said = json.loads(built.stdout)
    assert (said["rows"], said["kind"], said["model"], said["lists"]) == (400, "flat", "ViT-L-14", 1)
    vectors = vectors_by_id(release)[1]
    np.save(tmp_path / "query.npy", vectors[9:10])
    found = CliRunner().invoke(app, ["search", "laion", "--vector", str(tmp_path / "query.npy"), "--store", store])
    assert found.exit_code == 0, found.output
    assert found.stdout.startswith("1.0000  9  https://")


def test_columns_of_any_type_and_name_come_back_as_text_or_number(tmp_path: Path) -> None:
    put_vectors(tmp_path, [3], tables=False)
    table = pa.table(
        {
            "id": [7, 8, 9],  # not ours: row numbers are
            "LANGUAGE": [1, 2, 3],
            "punsafe": ["x", "y", "z"],
            "WIDTH": ["a", "b", None],
            "HEIGHT": [5, 6, None],
            "sha256": ["zz", "", "ab" * 32],
            "list": [[1], [2, 3], None],
            "struct": [{"a": 1}, None, {"a": 2}],
            "bytes": [b"x", None, b"\xff"],
            "large": pa.array([2**64 - 1, 0, None], pa.uint64()),
            "day": pa.array([date(2020, 1, 1)] * 3),
            "few": pa.array(["a", "b", "a"]).dictionary_encode(),
            "flag": [True, None, False],
            "nothing": pa.nulls(3),
        }
    )
    Store.open(str(tmp_path)).write_table("vectors_0.parquet", table)
    index = open_index(build_folder(tmp_path)[0])
    first, second, third = index.rows([0, 1, 2])
    assert first is not None
    assert second is not None
    assert third is not None
    assert (first["id"], first["LANGUAGE"], first["punsafe"], first["WIDTH"], third["WIDTH"]) == (0, 1, "x", "a", None)
    assert (first["HEIGHT"], third["HEIGHT"], first["sha256"], third["sha256"]) == (5, None, None, "ab" * 32)
    assert (first["list"], second["struct"], third["bytes"], first["day"]) == ("[1]", None, "ff", '"2020-01-01"')
    assert (first["large"], second["large"], third["large"]) == (str(2**64 - 1), "0", None)
    assert (first["flag"], second["flag"], third["few"], first["nothing"]) == (True, None, "a", None)
    assert set(index.facets()) == {"alive"}
