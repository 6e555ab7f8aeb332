"""Selecting rows of a release, which `dataset publish` has written from parts in a real store."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from typer.testing import CliRunner

from dataset.candidates.link_list_rows import ListPiece
from dataset.candidates.link_lists import read_list
from dataset.errors import DatasetError
from dataset.formats.releases import FileKind, Release, open_release
from dataset.formats.selections import RECORD, read_selection
from dataset.main import app
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request as PublishRequest
from dataset.publish.publish import publish
from dataset.select.candidates import Candidates, balanced, descending
from dataset.select.errors import SelectError
from dataset.select.rules import parse_rule
from dataset.select.select import Request, Selected, Selection
from dataset.side_tables.rows import ReleaseRows
from dataset.store.store import Store
from tests.parts import MadeStore, in_parts, make_pair

LANGUAGES = ("de", "de", "de", "fr", "ja")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A release of 600 rows in files of 90."""
    made = MadeStore(Store.open(str(tmp_path_factory.mktemp("store"))))
    pairs = []
    for seed in range(600):
        subset = ("en", "multi", "nolang")[seed % 3]
        language = {"en": "en", "multi": LANGUAGES[seed % 5], "nolang": None}[subset]
        pairs.append(make_pair(seed, subset=subset, LANGUAGE=language))
    made.put_run("crawl", in_parts(pairs, 200))
    publish(made.store, PublishRequest(name="laion", inputs=[InputName(".", "crawl")], rows_per_file=90))
    return open_release(made.store, "laion")


@pytest.fixture(scope="module")
def rows(release: Release) -> list[dict[str, Any]]:
    """All rows, with subset and LANGUAGE as `select` has them."""
    found = []
    for file in release.files(FileKind.DATA):
        for row in release.store.read_table(release.path(file.path)).to_pylist():
            language = row.get("LANGUAGE") if file.subset == "multi" else {"en": "en"}.get(file.subset)
            found.append(row | {"subset": file.subset, "LANGUAGE": language})
    return found


def select(release: Release, out: Path, where: str = "TRUE", **asked: Any) -> list[dict[str, Any]]:
    """Select, and return the rows of the selection in the order of its files."""
    how = {name: asked.pop(name) for name in ("threads", "memory_bytes") if name in asked}
    store = Store.open(str(out))
    record = Selection(ReleaseRows.open(release), Request(where=where, **asked), **how).write(store)
    found = []
    for file in record.files:
        data = store.read(file.path)
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file.bytes, file.sha256)
        found += store.read_table(file.path).to_pylist()
    assert len(found) == record.rows == sum(record.subsets.values())
    return found


@pytest.mark.parametrize(
    ("where", "wanted"),
    [
        ("WIDTH >= 512 AND height >= 512", lambda row: row["WIDTH"] >= 512 and row["HEIGHT"] >= 512),
        ("LANGUAGE = 'de'", lambda row: row["LANGUAGE"] == "de"),
        ("LANGUAGE IS NULL", lambda row: row["subset"] == "nolang"),
        ("subset IN ('en', 'nolang') AND punsafe < 0.5", lambda row: row["subset"] != "multi" and row["punsafe"] < 0.5),
        (
            "contains(lower(TEXT), 'dog') OR TEXT LIKE 'cloud%'",
            lambda row: "dog" in row["TEXT"] or row["TEXT"][:5] == "cloud",
        ),
        ("final_host LIKE '%.org' AND crawl = 'crawl'", lambda row: urlsplit(row["URL"]).hostname.endswith(".org")),
        (
            "CASE WHEN WIDTH > HEIGHT THEN similarity > 0.4 ELSE FALSE END",
            lambda row: row["WIDTH"] > row["HEIGHT"] and row["similarity"] > 0.4,
        ),
        ("fetched::DATE = DATE '2026-10-01' AND WIDTH BETWEEN 100 AND 1000", lambda row: 100 <= row["WIDTH"] <= 1000),
    ],
)
def test_the_rows_for_which_the_expression_is_true_are_selected_as_they_are(
    release: Release, rows: list[dict[str, Any]], tmp_path: Path, where: str, wanted: Callable[[Any], bool]
) -> None:
    expected = [row for row in rows if wanted(row)]
    found = select(release, tmp_path / "out", where, rows_per_file=70, threads=3)
    assert found == [{name: row.get(name) for name in found[0]} for row in expected]
    assert len(found) > 10


def test_each_allowed_expression_selects_what_duckdb_selects(
    release: Release, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    import duckdb

    data = ", ".join(f"'{release.store.uri}/{release.path(file.path)}'" for file in release.files(FileKind.DATA))
    where = "(WIDTH * HEIGHT > 1e6 AND length(TEXT) % 3 = 1) OR round(similarity, 2) = 0.4 OR URL SIMILAR TO '.*7.jpg'"
    query = f"SELECT id FROM read_parquet([{data}], union_by_name = true) WHERE {where} ORDER BY id"
    expected = [row[0] for row in duckdb.connect().execute(query).fetchall()]
    where = where.replace("URL SIMILAR TO '.*7.jpg'", "regexp_full_match(URL, '.*7.jpg')")
    assert [row["id"] for row in select(release, tmp_path / "out", where)] == expected


@pytest.mark.parametrize(
    "text",
    [
        "id IN (SELECT 1)",
        "EXISTS (SELECT 1)",
        "1 = 1) UNION SELECT (1",
        "1 = 1); SELECT (1",
        "1 = 1) ORDER BY (1",
        "1 = 1) LIMIT (1",
        "1 = 1) GROUP BY (1",
        "row_number() OVER () > 1",
        "count(*) > 1",
        "read_text('/etc/passwd') = ''",
        "getenv('HOME') = ''",
        "current_setting('memory_limit') = ''",
        "list_transform([1], lambda x: x) = [1]",
        "WIDTH > ?",
        "WIDTH > $1",
        "repeat('a', 1000000000) = TEXT",
        "TEXT::JSON = '1'",
        "COLUMNS(*) > 1",
        "password = 1",
        "rows.WIDTH > 1",
        "nextval('s') > 1",
        "random() < 0.5",
        "WIDTH >",
        "",
        "WIDTH > 'abc'",
        "TEXT",
        "pragma_version() = 1",
        "(" * 2000 + "TRUE" + ")" * 2000,
        "x" * 20_000,
    ],
)
def test_what_is_not_one_expression_over_columns_is_refused_in_a_sentence(release: Release, text: str) -> None:
    with pytest.raises(SelectError) as refused:
        Selection(ReleaseRows.open(release), Request(where=text))
    assert str(refused.value).endswith(".")


def test_the_engine_reaches_no_file_even_if_an_expression_could(tmp_path: Path) -> None:
    import duckdb

    from dataset.select import rules

    (tmp_path / "secret.csv").write_text("a\n1\n", encoding="utf-8")
    connection = rules._connect()
    with pytest.raises(duckdb.Error):
        connection.execute(f"SELECT * FROM read_csv('{tmp_path}/secret.csv')")
    with pytest.raises(duckdb.Error):
        connection.execute("SET enable_external_access = true")


def test_a_sample_has_the_size_asked_for_and_depends_on_the_seed_alone(release: Release, tmp_path: Path) -> None:
    found = [
        [row["id"] for row in select(release, tmp_path / str(at), "WIDTH > 500", sample=50, seed=seed, threads=threads)]
        for at, (seed, threads) in enumerate([(1, 1), (1, 4), (2, 1)])
    ]
    assert found[0] == found[1] != found[2]
    assert {len(ids) for ids in found} == {50}
    assert found[0] == sorted(found[0])


def test_every_row_is_equally_likely_to_be_sampled(release: Release) -> None:
    counts: Counter[int] = Counter()
    for seed in range(60):
        selection = Selection(ReleaseRows.open(release), Request(where="subset = 'en'", sample=100, seed=seed))
        groups = list(selection._rows.row_groups())
        with Candidates(1) as candidates:
            selection.fill(candidates, groups, Selected(Counter(), Counter()), lambda *_: None)
            counts.update(candidates.ids(0, candidates.rows).tolist())
    assert len(counts) == 200
    assert min(counts.values()) > 8  # 30 ± 5.7 standard deviations of 3.9
    assert max(counts.values()) < 52


def test_a_host_has_at_most_the_rows_allowed_also_with_little_memory(
    release: Release, rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataset.select.candidates._CHUNK", 50)
    found = select(release, tmp_path / "out", max_per_host=1, memory_bytes=1)
    hosts = Counter(urlsplit(row["URL"]).hostname for row in rows)
    assert Counter(urlsplit(row["URL"]).hostname for row in found) == dict.fromkeys(hosts, 1)


def test_a_balanced_sample_has_equally_many_rows_of_each_language(release: Release, tmp_path: Path) -> None:
    found = select(release, tmp_path / "out", "subset = 'multi'", sample=60, balance="LANGUAGE")
    assert Counter(row["LANGUAGE"] for row in found) == {"de": 20, "fr": 20, "ja": 20}
    with pytest.raises(SelectError, match="--balance needs --sample"):
        Selection(ReleaseRows.open(release), Request(where="TRUE", balance="LANGUAGE"))


def test_the_top_share_has_the_highest_similarities(
    release: Release, rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    found = select(release, tmp_path / "out", top_share=0.3)
    best = sorted(rows, key=lambda row: -float(row["similarity"]))[:180]
    assert {row["id"] for row in found} == {row["id"] for row in best}


def test_cuts_do_not_depend_on_how_candidates_are_read() -> None:
    draw = np.random.default_rng(0)
    values = np.concatenate([draw.normal(size=5000), [np.nan, 0.0, -0.0, np.inf, -np.inf]])
    order = np.argsort(descending(values), kind="stable")
    ordered = values[order]
    assert ordered[0] == np.inf
    assert np.all(ordered[:-2][:-1] >= ordered[:-2][1:])
    assert balanced(np.array([5, 100, 0, 30]), 50).tolist() == [5, 23, 0, 22]
    assert balanced(np.array([5, 10]), 50).tolist() == [5, 10]
    with Candidates(1) as empty:
        empty.finish()
        empty.cut_per_host(1)
        empty.sample(5, 1)
        assert len(empty.kept) == 0


def test_an_interrupted_selection_is_written_again_and_a_finished_one_is_kept(release: Release, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = select(release, out, "WIDTH > 500")
    (out / RECORD).unlink()
    (out / "part-00009.parquet").write_bytes(b"left over")
    assert select(release, out, "WIDTH > 500") == first
    assert sorted(path.name for path in out.iterdir()) == ["part-00000.parquet", RECORD]
    with pytest.raises(SelectError, match="contains a selection"):
        select(release, out, "WIDTH > 500")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SelectError, match=r"other files, such as notes\.txt"):
        select(release, tmp_path, "WIDTH > 500")


def test_ingest_reads_a_selection_as_a_link_list(release: Release, tmp_path: Path) -> None:
    rows = select(release, tmp_path / "out", "LANGUAGE = 'de'")
    store = Store.open(str(tmp_path / "packs"))
    piece = ListPiece(format="parquet", url="URL", caption="TEXT", language="LANGUAGE", extra={"similarity": "double"})
    with (tmp_path / "out" / "part-00000.parquet").open("rb") as file:
        report = read_list(
            file,
            piece,
            slots=1,
            write=lambda pack, slot: store.write(f"{pack}-{slot}.parquet"),
            on_progress=lambda _rows: None,
            metadata={},
        )
    assert (report.rows, report.dropped.total()) == (len(rows), 0)
    packed = store.read_table("0-0.parquet").to_pylist()
    assert sorted((row["url"], row["text"], row["language"]) for row in packed) == sorted(
        (row["URL"], row["TEXT"], "de") for row in rows
    )


def run(release: Release, *options: str) -> Any:
    return CliRunner().invoke(app, ["select", "laion", "--store", release.store.uri, *options])


def test_the_command_counts_explains_and_writes(release: Release, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    wanted = sum(row["WIDTH"] >= 1024 and row["HEIGHT"] >= 1024 and row["punsafe"] < 0.45 for row in rows)
    options = ("--preset", "high-resolution", "--preset", "safe", "--json")
    assert json.loads(run(release, *options, "--count").stdout)["rows"] == wanted
    said = json.loads(run(release, *options, "--explain").stdout)
    assert (said["columns"], said["tables"], sum(said["rows"].values())) == (["WIDTH", "HEIGHT", "punsafe"], [], 600)
    out = tmp_path / "out"
    assert json.loads(run(release, *options, "--out", str(out)).stdout)["rows"] == wanted
    record = read_selection(Store.open(str(out)))
    assert (record.release, record.version, record.rows) == ("laion", "1.0.0", wanted)
    assert record.presets == ("high-resolution", "safe")


def test_a_selection_by_a_tag_that_no_crawl_has_says_so(release: Release, tmp_path: Path) -> None:
    untagged = run(release, "--where", "pwatermark < -1", "--out", str(tmp_path / "out"))
    assert "No row is selected: no crawl of laion was tagged with pwatermark;" in str(untagged.exception)
    counted = run(release, "--where", "pwatermark < -1", "--count")
    assert "No crawl of laion was tagged with pwatermark;" in counted.stdout
    tagged = run(release, "--where", "punsafe < -1", "--count")
    assert "tagged" not in tagged.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--where", "TRUE", "--count", "--drop-duplicates"), "has no side table duplicates"),
        (("--near", "a cat", "--nearest", "9", "--count"), "has no index yet: run `dataset index build`"),
        (("--preset", "nice", "--count"), "no preset nice, only high-resolution"),
        (("--where", "WIDTH < 0", "--out", "{out}"), "No row is selected"),
        (("--where", "TEXT = 'ü' AND", "--count"), "(it ends too early)"),
        (("--where", "TEXT = = 'ü'", "--count"), 'syntax error at or near "="'),
        (("--where", "tags.punsafe < 1", "--count"), "no column tags.punsafe"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    release: Release, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    result = run(release, *(one.replace("{out}", str(tmp_path / "out")) for one in options))
    assert isinstance(result.exception, DatasetError)
    assert said in str(result.exception)


def test_a_file_of_the_release_that_is_gone_is_named(release: Release, tmp_path: Path) -> None:
    gone = Release(release.store, release.folder + "x", release.record)
    with pytest.raises(DatasetError, match=r"data/en/.* of laion 1\.0\.0 cannot be read"):
        select(gone, tmp_path / "out", "TRUE")


def test_names_of_columns_keep_the_releases_spelling() -> None:
    rule = parse_rule("width > 1 and Tags.PUNSAFE < 0.5", ["WIDTH", "tags.punsafe"])
    assert rule.columns == ("WIDTH", "tags.punsafe")
    assert rule.sql == '((WIDTH > 1) AND ("tags.punsafe" < 0.5))'


@pytest.mark.parametrize(
    "text",
    ["'\udcff' = TEXT", "WIDTH > 1 /*", "abs(" * 150 + "WIDTH" + ")" * 150 + " > 1", "NOT " * 300 + "TRUE"],
)
def test_an_expression_that_duckdb_cannot_take_is_refused_in_one_line(release: Release, text: str) -> None:
    with pytest.raises(SelectError, match=r"--where") as refused:
        Selection(ReleaseRows.open(release), Request(where=text))
    assert "\n" not in str(refused.value)


def test_a_column_that_is_not_text_or_numbers_is_not_balanced(release: Release) -> None:
    with pytest.raises(SelectError, match=r"pdq is of the type .*LANGUAGE"):
        Selection(ReleaseRows.open(release), Request(where="TRUE", sample=3, balance="pdq"))
