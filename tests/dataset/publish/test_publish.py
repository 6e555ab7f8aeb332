"""Publishing, from parts in a real store to the files of a release."""

import hashlib
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset.errors import DatasetError
from dataset.formats.releases import FileKind, Release, open_release
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request
from dataset.publish.publish import publish
from dataset.store.store import Store
from tests.parts import MadeStore, in_parts, make_pair

BATCH = "2026-11-26"


@pytest.fixture
def made(tmp_path: Path) -> MadeStore:
    return MadeStore(Store.open(str(tmp_path / "store")))


def publish_run(made: MadeStore, *runs: str, name: str = "laion", **asked: Any) -> Release:
    """Publish runs of the store itself."""
    how = {key: asked.pop(key) for key in ("workers", "memory_bytes", "scratch", "restart") if key in asked}
    inputs = [InputName(".", run) for run in runs or ("crawl",)]
    publish(made.store, Request(name=name, inputs=inputs, batch=asked.pop("batch", BATCH), **asked), **how)
    return open_release(made.store, name)


def read(release: Release, kind: FileKind = FileKind.DATA, **which: Any) -> pa.Table:
    """Read all files of a kind, in the order of their ids."""
    paths = [release.path(file.path) for file in release.files(kind, **which)]
    tables = [release.store.read_table(path) for path in paths]
    return pa.concat_tables(tables, promote_options="default")


def contents(folder: Path) -> dict[str, str]:
    """The sha256 of each file below a folder, by its path."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_pair_is_published_once_with_the_values_of_its_part(made: MadeStore) -> None:
    pairs = [make_pair(seed, subset=("en", "multi", "nolang")[seed % 3]) for seed in range(300)]
    made.put_run("crawl", in_parts(pairs))
    release = publish_run(made)
    rows = read(release)
    for subset in ("en", "multi", "nolang"):
        expected = sorted((pair for pair in pairs if pair["subset"] == subset), key=lambda pair: int(pair["hash"]))
        found = read(release, subset=subset)
        for name in ("URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "hash", "sha256"):
            assert found[name].to_pylist() == [pair[name] for pair in expected]
        assert found["punsafe"].to_pylist() == [float(np.float32(pair["punsafe"])) for pair in expected]
        other = read(release, FileKind.EXTENDED, subset=subset)
        for name in ("final_host", "fetched", "pdq", "dhash"):
            assert other[name].to_pylist() == [pair[name] for pair in expected]
        assert set(other["crawl"].to_pylist()) == {"crawl"}
    assert sorted(rows["id"].to_pylist()) == list(range(300))
    assert release.record.rows == {"en": 100, "multi": 100, "nolang": 100}


def test_a_row_leads_back_to_its_input_and_key(made: MadeStore) -> None:
    first, second = [make_pair(seed) for seed in range(60)], [make_pair(seed) for seed in range(60, 90)]
    made.put_run("first", in_parts(first))
    made.put_run("second", in_parts(second))
    source = read(publish_run(made, "first", "second"), FileKind.SOURCE).to_pylist()
    hashes = read(open_release(made.store, "laion"))["hash"].to_pylist()
    keys = {}
    for at, run in enumerate(("first", "second")):
        for listed in made.listed:
            if listed["run"] == run:
                for row in made.store.read_table(f"{listed['path']}.parquet").to_pylist():
                    keys[row["hash"]] = (at, int(row["key"]), bytes.fromhex(row["md5"]))
    assert [(row["input"], row["key"], row["md5"]) for row in source] == [keys[one] for one in hashes]


def test_ids_hold_the_hashes_in_the_order_of_the_ids(made: MadeStore) -> None:
    made.put_run("crawl", in_parts([make_pair(seed, subset=("en", "multi")[seed % 2]) for seed in range(200)]))
    release = publish_run(made, rows_per_file=30)
    for file in release.files(FileKind.IDS):
        hashes = np.frombuffer(release.store.read(release.path(file.path)), "<i8")
        data = read(release, subset=file.subset)
        assert hashes.tolist() == data["hash"].to_pylist() == sorted(data["hash"].to_pylist())
        assert data["id"].to_pylist() == list(range(file.first_id, file.last_id + 1))


def test_of_one_pair_the_best_similarity_is_published_then_the_first_input_then_the_smallest_key(
    made: MadeStore,
) -> None:
    made.put_run("first", [[make_pair(1, similarity=0.3), make_pair(2, similarity=0.3), make_pair(3, similarity=0.3)],
                           [make_pair(3, similarity=0.3)]])  # fmt: skip
    made.put_run("second", [[make_pair(1, similarity=0.4), make_pair(2, similarity=0.3)]])
    release = publish_run(made, "second", "first")
    rows = zip(read(release).to_pylist(), read(release, FileKind.SOURCE).to_pylist(), strict=True)
    found = {row["hash"]: (row["similarity"], source["input"], source["key"]) for row, source in rows}
    assert found == {
        make_pair(1)["hash"]: (0.4, 0, 300000),
        make_pair(2)["hash"]: (0.3, 0, 300001),
        make_pair(3)["hash"]: (0.3, 1, 100002),
    }
    assert release.record.batches[0].dropped["duplicate"] == 3


def test_another_pair_with_the_same_hash_is_dropped_and_counted_as_a_collision(made: MadeStore) -> None:
    made.put_run("crawl", [[make_pair(1, hash=7, similarity=0.3), make_pair(2, hash=7, similarity=0.4)]])
    release = publish_run(made)
    assert read(release)["URL"].to_pylist() == [make_pair(2)["URL"]]
    assert Counter(release.record.batches[0].dropped) == Counter(collision=1)


def test_a_further_batch_adds_what_is_new_and_leaves_every_earlier_file_as_it_was(
    made: MadeStore, tmp_path: Path
) -> None:
    made.put_run("first", in_parts([make_pair(seed, similarity=0.3) for seed in range(100)]))
    publish_run(made, "first")
    before = contents(tmp_path / "store" / "releases")
    made.put_run("second", in_parts([make_pair(seed, similarity=0.5) for seed in range(50, 150)]))
    release = publish_run(made, "second", batch="2026-12-01")
    after = contents(tmp_path / "store" / "releases")
    changed = {path for path in before if after[path] != before[path]}
    changed = {path for path in changed if not path.startswith("laion/plots/")}
    card = {"laion/README.md", "laion/croissant.json"}
    assert changed == {"laion/release.json", "laion/SHA256SUMS", "laion/hosts.parquet"} | card
    assert after["laion/history/1.0.0.json"] == before["laion/release.json"]
    assert (release.record.version, release.record.previous) == ("1.1.0", "1.0.0")
    new = read(release, batch="2026-12-01")
    assert new["id"].to_pylist() == list(range(100, 150))
    assert release.record.batches[1].dropped["published_before"] == 50
    old = read(release, batch=BATCH)
    assert set(old["similarity"].to_pylist()) == {0.3}
    assert set(read(release, FileKind.SOURCE, batch="2026-12-01")["input"].to_pylist()) == {1}
    assert sum(read_hosts(release)["rows"].to_pylist()) == 150


def read_hosts(release: Release) -> pa.Table:
    return release.store.read_table(release.path("hosts.parquet"))


def test_hosts_are_counted_by_registrable_domain(made: MadeStore) -> None:
    urls = ["https://a.example.co.uk/1.jpg", "https://b.example.co.uk/2.jpg", "http://x.github.io/3.jpg",
            "https://[2001:db8::1]/4.jpg", "http://192.0.2.7:8080/5.jpg"]  # fmt: skip
    made.put_run("crawl", [[make_pair(seed, URL=url, punsafe=seed / 8) for seed, url in enumerate(urls)]])
    hosts = read_hosts(publish_run(made, rows_per_file=2)).to_pylist()
    assert {row["domain"]: row["rows"] for row in hosts} == {
        "example.co.uk": 2, "x.github.io": 1, "[2001:db8::1]": 1, "192.0.2.7": 1,
    }  # fmt: skip
    assert [row["domain"] for row in hosts] == sorted(row["domain"] for row in hosts)
    assert next(row["punsafe"] for row in hosts if row["rows"] == 2) == pytest.approx(1 / 16)


def test_the_checksums_are_those_of_the_public_files(made: MadeStore, tmp_path: Path) -> None:
    made.put_run("crawl", in_parts([make_pair(seed) for seed in range(100)]))
    publish_run(made, variants={"safe": "punsafe < 0.45"})
    folder = tmp_path / "store" / "releases" / "laion"
    checked = subprocess.run(["sha256sum", "--check", "SHA256SUMS"], cwd=folder, capture_output=True, check=False)
    assert checked.returncode == 0
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    there = {path for path in contents(folder) if not path.startswith(("ids/", "source/", "stats/counts/"))}
    there -= {"SHA256SUMS"}
    assert listed == there


def test_a_variant_has_the_rows_its_predicate_admits_with_the_same_ids(made: MadeStore) -> None:
    pairs = [make_pair(seed, punsafe=None if seed % 10 == 0 else seed / 100) for seed in range(100)]
    made.put_run("crawl", in_parts(pairs))
    release = publish_run(made, variants={"research-safe": "punsafe < 0.45 AND WIDTH >= 512"}, rows_per_file=30)
    rows = read(release).to_pylist()
    expected = [row for row in rows if row["punsafe"] is not None and row["punsafe"] < np.float32(0.45)
                and row["WIDTH"] >= 512]  # fmt: skip
    assert read(release, FileKind.VARIANT, variant="research-safe").to_pylist() == expected
    assert 0 < len(expected) < 100


@pytest.mark.parametrize("workers", [2, 4])
def test_the_bytes_do_not_depend_on_who_does_a_unit_or_on_the_order_of_parts(
    made: MadeStore, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [make_pair(seed % 400, similarity=0.3 + seed % 7 / 100, subset=("en", "multi")[seed % 400 % 2])
             for seed in range(600)]  # fmt: skip
    made.put_run("crawl", in_parts(pairs, 40))
    alone = publish_run(made, rows_per_file=50)
    expected = contents(tmp_path / "store" / "releases")
    other = MadeStore(Store.open(str(tmp_path / "other")), listed=[*reversed(made.listed)])
    for path in made.store.list("crawl"):
        other.store.put(path, made.store.read(path))
    other.put_run("crawl", [])
    monkeypatch.setattr("dataset.publish.planning.MIN_UNIT_ROWS", 70)  # 9 groups and 16 ranges, not one of each
    publish_run(other, workers=workers, memory_bytes=1, rows_per_file=50)
    assert contents(tmp_path / "other" / "releases") == expected
    assert sum(alone.record.rows.values()) == 400


def test_groups_and_pages_of_a_file_are_those_of_the_format(made: MadeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataset.formats.release_parquet.ROW_GROUP_ROWS", 40)
    made.put_run("crawl", in_parts([make_pair(seed) for seed in range(100)]))
    release = publish_run(made)
    file = next(release.files(FileKind.DATA))
    parquet = pq.ParquetFile(release.store.open_input(release.path(file.path)))
    groups = [parquet.metadata.row_group(at) for at in range(parquet.num_row_groups)]
    assert [group.num_rows for group in groups] == [40, 40, 20]
    assert parquet.metadata.metadata[b"use_content_defined_chunking"] == b"true"
    for at in range(groups[0].num_columns):
        column = groups[0].column(at)
        assert column.compression == "ZSTD"
        assert column.has_offset_index
        assert column.has_column_index
        if column.path_in_schema in ("hash", "id"):
            assert "DELTA_BINARY_PACKED" in column.encodings
    assert parquet.schema_arrow.names[:8] == ["URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "hash", "pwatermark",
                                              "punsafe"]  # fmt: skip


def test_the_rows_that_went_in_are_published_or_dropped_for_a_reason(made: MadeStore) -> None:
    pairs = [make_pair(seed % 80, similarity=seed / 1000) for seed in range(100)]
    pairs += [make_pair(200 + at, URL=f"https://u:p@host{at}.example.com/a.jpg") for at in range(3)]
    pairs += [make_pair(300 + at, TEXT=f"mail me{at}@example.com for prints") for at in range(4)]
    made.put_run("crawl", in_parts(pairs))
    record = publish_run(made, drop_contacts=True).record
    batch = record.batches[0]
    assert {reason: n for reason, n in batch.dropped.items() if n} == {"duplicate": 20, "credentials": 3, "contacts": 4}
    assert sum(record.rows.values()) + sum(batch.dropped.values()) == record.inputs[0].rows == 107


def test_contacts_in_captions_are_counted_where_they_are_published(made: MadeStore) -> None:
    texts = [
        "call +49 30 1234567 now",
        "write to jane.doe@example.org",
        "both (555) 123-4567 a@b.example",
        "no 1920x1080",
    ]
    made.put_run("crawl", [[make_pair(seed, TEXT=text) for seed, text in enumerate(texts)]])
    assert publish_run(made).record.batches[0].contacts == {"email": 2, "phone": 2}


def made_twins(made: MadeStore) -> None:
    """Two crawls in which URLs and pictures occur several times."""
    made.put_run("first", in_parts([
        make_pair(1, URL="https://a.example.com/1.jpg", TEXT="one", similarity=0.30, sha256="1" * 64),
        make_pair(2, URL="https://a.example.com/1.jpg", TEXT="two", similarity=0.40, sha256="1" * 64),
        make_pair(3, URL="https://a.example.com/3.jpg", TEXT="three", similarity=0.35, sha256="3" * 64),
        make_pair(4, URL="https://a.example.com/4.jpg", TEXT="four", similarity=0.36, sha256="3" * 64),
        make_pair(5, URL="https://a.example.com/5.jpg", TEXT="five", similarity=0.36, sha256=None),
        make_pair(6, URL="https://a.example.com/6.jpg", TEXT="six", similarity=0.36, sha256=None),
    ], 2))  # fmt: skip
    made.put_run("second", [[
        make_pair(7, URL="https://a.example.com/1.jpg", TEXT="seven", similarity=0.50, sha256="7" * 64),
        make_pair(8, URL="https://a.example.com/8.jpg", TEXT="eight", similarity=0.29, sha256="3" * 64),
    ]])  # fmt: skip


@pytest.mark.parametrize(
    ("unique", "texts", "dropped"),
    [
        ((), {"one", "two", "three", "four", "five", "six"}, {}),
        (("url",), {"two", "three", "four", "five", "six"}, {"same_url": 1}),
        (("sha256",), {"two", "four", "five", "six"}, {"same_sha256": 2}),
        (("sha256", "url"), {"two", "four", "five", "six"}, {"same_sha256": 2}),
    ],
)
def test_of_rows_with_one_url_or_picture_the_best_is_published(
    made: MadeStore, unique: tuple[str, ...], texts: set[str], dropped: dict[str, int]
) -> None:
    made_twins(made)
    release = publish_run(made, "first", unique=unique)
    assert set(read(release)["TEXT"].to_pylist()) == texts
    assert {reason: n for reason, n in release.record.batches[0].dropped.items() if n} == dropped


def test_a_url_or_picture_of_an_earlier_batch_stays_as_it_was_published(made: MadeStore) -> None:
    made_twins(made)
    publish_run(made, "first", unique=("sha256", "url"), name="both")
    with pytest.raises(DatasetError, match="same_sha256: 1, same_url: 1"):
        publish_run(made, "second", name="both", batch="2026-12-01")
    publish_run(made, "first", unique=("url",))
    release = publish_run(made, "second", batch="2026-12-01")
    assert read(release, batch="2026-12-01")["TEXT"].to_pylist() == ["eight"]


def test_uniqueness_does_not_depend_on_groups_and_ranges(
    made: MadeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = [hashlib.sha256(bytes([number])).hexdigest() for number in range(170)]
    pairs = [
        make_pair(seed, URL=f"https://h{seed % 150}.example.com/a.jpg", sha256=digests[seed % 170])
        for seed in range(600)
    ]
    made.put_run("crawl", in_parts(pairs, 40))
    release = publish_run(made, name="once", unique=("sha256", "url"))
    monkeypatch.setattr("dataset.publish.planning.MIN_UNIT_ROWS", 50)
    again = publish_run(made, name="again", unique=("sha256", "url"), memory_bytes=1, workers=2)
    assert read(again) == read(release)
    rows = read(release)
    assert len(set(rows["URL"].to_pylist())) == len(set(rows["sha256"].to_pylist())) == len(rows) > 50
    assert again.record.batches[0].dropped == release.record.batches[0].dropped
    assert sum(release.record.batches[0].dropped.values()) + len(rows) == 600


def test_the_first_file_represents_all_files_within_the_error_of_a_sample(made: MadeStore) -> None:
    pairs = [make_pair(seed, similarity=0.28 + seed / 20_000, subset="multi",
                       LANGUAGE="de" if seed < 1_200 else "fr") for seed in range(4_000)]  # fmt: skip
    made.put_run("crawl", in_parts(pairs, 500))  # parts differ from each other, as a crawl changes with time
    release = publish_run(made, rows_per_file=800)
    first = release.store.read_table(release.path(next(release.files(FileKind.DATA)).path))
    everything = read(release)
    for column in ("similarity", "punsafe", "WIDTH"):
        values, sample = np.sort(everything[column].to_numpy()), np.sort(first[column].to_numpy())
        shares = np.searchsorted(values, sample, side="right") / len(values)
        distance = np.abs(shares - np.arange(1, len(sample) + 1) / len(sample)).max()
        assert distance < 1.63 / np.sqrt(len(sample))  # Kolmogorov and Smirnov's bound at 1 %
    share = np.mean([language == "de" for language in first["LANGUAGE"].to_pylist()])
    assert abs(share - 0.3) < 3 * np.sqrt(0.3 * 0.7 / len(first))


def test_a_punsafe_that_is_not_a_number_counts_as_unknown_in_the_mean_of_its_domain(made: MadeStore) -> None:
    url = "https://a.example.org/{}.jpg"
    made.put_run("crawl", [[make_pair(1, URL=url.format(1), punsafe=float("nan")),
                            make_pair(2, URL=url.format(2), punsafe=0.25)]])  # fmt: skip
    (row,) = read_hosts(publish_run(made)).to_pylist()
    assert (row["rows"], row["punsafe"]) == (2, 0.25)
