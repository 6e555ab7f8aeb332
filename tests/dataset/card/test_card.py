"""The card of a release: YAML for the Hub, text and plots for people, Croissant for programs."""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import DatasetCard

from dataset.card.details import CardError, read_details
from dataset.card.front_matter import hub_languages, size_category
from dataset.formats.releases import CardDetails, Release, open_release
from dataset.publish.errors import PublishError
from dataset.publish.inputs import InputName
from dataset.publish.planning import Request
from dataset.publish.publish import publish
from dataset.store.store import Store
from tests.parts import MODELS, TAGS, MadeStore, in_parts, make_pair
from tests.readers import reader

LANGUAGES = {"en": ("en",), "multi": ("de", "iw", "ru-Latn"), "nolang": (None,)}
DETAILS = CardDetails(
    title='Pairs: "small" # one\x85',
    description="A *small* release.",
    creator="A laboratory",
    contact="removal@example.org",
    url="https://huggingface.co/datasets/lab/pairs",
    gate="You agree:\n- to be careful.",
)


def make_release(folder: Path, card: CardDetails | None = DETAILS, **asked: Any) -> Release:
    made = MadeStore(Store.open(str(folder)))
    pairs = []
    for seed in range(600):
        subset = ("en", "multi", "nolang")[seed % 3]
        pairs.append(make_pair(seed, subset=subset, LANGUAGE=LANGUAGES[subset][seed // 3 % len(LANGUAGES[subset])]))
    made.put_run("CC-MAIN-2026-40", in_parts(pairs, 100))
    request = Request(
        name="pairs",
        inputs=[InputName(".", "CC-MAIN-2026-40")],
        variants={"safe": "punsafe < 0.45"},
        batch="2026-11-26",
        rows_per_file=150,
        card=card,
        **asked,
    )
    publish(made.store, request)
    return open_release(made.store, "pairs")


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return make_release(tmp_path_factory.mktemp("card") / "store")


def read(release: Release, path: str) -> bytes:
    return release.store.read(release.path(path))


def front_matter(release: Release) -> dict[str, Any]:
    _, head, _ = read(release, "README.md").decode().split("---\n", 2)
    found: dict[str, Any] = yaml.safe_load(head)
    return found


def folder_of(release: Release) -> Path:
    return Path(release.store.uri.removeprefix("file://")) / release.folder


def test_the_hub_finds_in_the_yaml_what_it_filters_and_gates_by(release: Release) -> None:
    found = front_matter(release)
    assert found["pretty_name"] == DETAILS.title
    assert found["license"] == "cc-by-4.0"
    assert found["language"] == ["de", "en", "he", "ru"]
    assert found["size_categories"] == ["n<1K"]
    assert found["task_categories"] == ["text-to-image", "image-to-text", "zero-shot-image-classification"]
    assert found["extra_gated_prompt"] == DETAILS.gate
    assert "checkbox" in found["extra_gated_fields"].values()


def test_a_release_without_a_gate_is_not_gated(tmp_path: Path) -> None:
    found = front_matter(make_release(tmp_path / "store", None))
    assert not [key for key in found if key.startswith("extra_gated")]
    assert found["pretty_name"] == "pairs"


def test_the_configurations_name_files_that_are_there_with_their_columns_and_rows(release: Release) -> None:
    found = front_matter(release)
    names = [config["config_name"] for config in found["configs"]]
    subsets = ("en", "multi", "nolang")
    assert names == [f"{prefix}{subset}" for prefix in ("", "safe-", "extended-") for subset in subsets]
    assert [config["config_name"] for config in found["configs"] if config.get("default")] == ["en"]
    for config, information in zip(found["configs"], found["dataset_info"], strict=True):
        assert information["config_name"] == config["config_name"]
        (files,) = config["data_files"]
        paths = sorted(folder_of(release).glob(files["path"]))
        tables = [pq.read_metadata(path) for path in paths]
        (split,) = information["splits"]
        assert sum(table.num_rows for table in tables) == split["num_examples"] > 0
        assert information["download_size"] == sum(path.stat().st_size for path in paths)
        assert [feature["name"] for feature in information["features"]] == tables[0].schema.names


def test_the_hubs_library_takes_the_card(release: Release) -> None:
    data: Any = DatasetCard(read(release, "README.md").decode()).data
    assert data.license == "cc-by-4.0"
    assert len(data.configs) == 9


def test_the_text_says_how_it_was_made_what_it_lacks_and_how_to_use_it(release: Release) -> None:
    text = " ".join(read(release, "README.md").decode().split())
    for said in (
        "600 pairs", "CC-MAIN-2026-40", "a" * 64, "b" * 64, "0.28", "store:heads/p.safetensors", "c" * 64,
        "/.well-known/tdmrep.json` was **not** read", "No person has reviewed it", "Creative Commons Attribution",
        "--url-col URL --caption-col TEXT --sha256-col sha256", "worker ingest & worker download",
        "--verify_hash '[\"sha256\",\"sha256\"]'",
        'load_dataset("lab/pairs", "en"', "Write to removal@example.org", "| both sides ≥ 256",
    ):  # fmt: skip
        assert said in text, said


def test_each_plot_of_the_text_is_a_file_that_stands_alone(release: Release) -> None:
    shown = re.findall(r"!\[.+\]\((plots/\w+\.svg)\)", read(release, "README.md").decode())
    assert "plots/similarity.svg" in shown
    assert len(shown) >= 5
    for path in shown:
        root = ElementTree.fromstring(read(release, path))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.find("{http://www.w3.org/2000/svg}style") is not None
        assert {"width", "height"} <= set(root.keys())


def test_the_checksums_cover_the_card(release: Release) -> None:
    listed = [line.split("  ") for line in read(release, "SHA256SUMS").decode().splitlines()]
    sums = {path: sha256 for sha256, path in listed}
    for path in ("README.md", "croissant.json", "plots/similarity.svg"):
        assert sums[path] == hashlib.sha256(read(release, path)).hexdigest()


def test_equal_releases_have_equal_cards(release: Release, tmp_path: Path) -> None:
    again = make_release(tmp_path / "store")
    for path in ("README.md", "croissant.json", "SHA256SUMS"):
        assert read(again, path) == read(release, path)


def test_a_further_batch_keeps_the_details_and_is_described(tmp_path: Path) -> None:
    release = make_release(tmp_path / "store")
    made = MadeStore(release.store)
    made.put_run("second", in_parts([make_pair(seed) for seed in range(1000, 1100)]))
    publish(made.store, Request(name="pairs", inputs=[InputName(".", "second")], batch="2026-12-01"))
    later = open_release(made.store, "pairs")
    assert later.record.card == DETAILS
    text = read(later, "README.md").decode()
    assert "700 pairs" in text
    assert re.search(r"\| 2026-12-01 +\| 1\.1\.0 +\| +100 \|", text)


def test_a_continued_publish_keeps_the_card_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("dataset.publish.publish.write_ids", broken)
    with pytest.raises(OSError, match="no space"):
        make_release(tmp_path / "store")
    monkeypatch.undo()
    with pytest.raises(PublishError, match="other inputs or options"):
        make_release(tmp_path / "store", CardDetails(title="another"))


def test_croissant_describes_every_table_by_its_sha256(release: Release) -> None:
    found = json.loads(read(release, "croissant.json"))
    assert found["conformsTo"][0] == "http://mlcommons.org/croissant/1.1"
    objects = {one["contentUrl"]: one["sha256"] for one in found["distribution"] if one["@type"] == "cr:FileObject"}
    assert len(objects) == sum(file.path.startswith(("data", "extended", "variants")) for file in release.record.files)
    for path, sha256 in objects.items():
        assert hashlib.sha256(read(release, path)).hexdigest() == sha256
    assert "removal@example.org" in found["rai:dataReleaseMaintenancePlan"]
    assert set(found["rai:machineAnnotationTools"]) == {"model-en", "model-other", "store:heads/p.safetensors"}


def test_mlcroissant_validates_and_reads_the_release(release: Release) -> None:
    script = """
import json, sys
import mlcroissant
found = mlcroissant.Dataset(jsonld=sys.argv[1])
issues = found.metadata.ctx.issues
rows = {each.uuid: sum(1 for _ in found.records(each.uuid)) for each in found.metadata.record_sets}
first = next(iter(found.records("multi")))
print(json.dumps({"errors": sorted(issues.errors), "warnings": sorted(issues.warnings), "rows": rows,
                  "columns": sorted(first)}))
"""
    python = reader("mlcroissant")
    path = folder_of(release) / "croissant.json"
    run = subprocess.run([python, "-W", "ignore", "-c", script, str(path)], capture_output=True, text=True, check=False,
                         env={**os.environ, "PYTHONPATH": ""})  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["errors"] == found["warnings"] == []
    information = {each["config_name"]: each for each in front_matter(release)["dataset_info"]}
    assert found["rows"] == {name: each["splits"][0]["num_examples"] for name, each in information.items()}
    assert found["columns"] == sorted(f"multi/{feature['name']}" for feature in information["multi"]["features"])


def test_a_card_file_has_only_what_a_card_can_say(tmp_path: Path) -> None:
    path = tmp_path / "card.toml"
    path.write_text('title = "Ours"\nlicense = "odc-by"\ngate = """\nYou agree.\n"""\n')
    assert read_details(path) == CardDetails(title="Ours", license="odc-by", gate="You agree.")
    for text, said in (
        ("titel = 'x'", "unknown key 'titel'"), ("title = 3", "not a text"), ("title =", "not TOML"),
        ("license = ''", "license is empty"), ("url = 'javascript:x'", "https://"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(CardError, match=said):
            read_details(path)
    with pytest.raises(CardError, match="cannot be read"):
        read_details(tmp_path / "missing.toml")


def test_a_license_of_the_publishers_own_is_given_by_name_and_link(tmp_path: Path) -> None:
    card = CardDetails(license="Our terms", license_url="https://example.org/terms")
    release = make_release(tmp_path / "store", card)
    found = front_matter(release)
    assert (found["license"], found["license_name"]) == ("other", "Our terms")
    assert found["license_link"] == "https://example.org/terms"
    assert "[Our terms](https://example.org/terms)" in read(release, "README.md").decode()


def test_languages_and_sizes_have_the_hubs_names() -> None:
    assert hub_languages(["iw", "zh-Latn", "zh", "und", "fil"]) == ["fil", "he", "zh"]
    assert size_category(0) == "n<1K"
    assert size_category(999) == "n<1K"
    assert size_category(1000) == "1K<n<10K"
    assert size_category(5_850_000_000) == "1B<n<10B"
    assert size_category(10**13) == "n>1T"


def test_no_public_file_contains_a_local_path_of_a_model(tmp_path: Path) -> None:
    made = MadeStore(Store.open(str(tmp_path)))
    models = {role: model | {"model": "/home/me/net", "pretrained": "~/weights/x.pt"} for role, model in MODELS.items()}
    tags = {role: heads | {"punsafe": {"head": "/home/me/p.safetensors", "sha256": "c" * 64}}
            for role, heads in TAGS.items()}  # fmt: skip
    made.put_run("crawl", [[make_pair(1)]], models=models, tags=tags)
    publish(made.store, Request(name="pairs", inputs=[InputName(".", "crawl")]))
    folder = tmp_path / "releases" / "pairs"
    public = [line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()]
    told = {path for path in public if re.search(rb"/home|weights/", (folder / path).read_bytes())}
    assert told == set()
    assert open_release(made.store, "pairs").record.inputs[0].models["en"]["pretrained"] == "x.pt"
