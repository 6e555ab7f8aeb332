"""The documents: every link has a target, and the tables equal the code."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

from dataset.formats.deny_lists import DENY_SCHEMA
from dataset.formats.duplicates import COLUMNS as DUPLICATES
from dataset.formats.label_files import SCHEMA as LABEL_SCHEMA
from dataset.formats.manifest import MANIFEST_SCHEMA
from dataset.formats.masks import SCHEMA as MASK
from dataset.formats.packs import LIST_PACK_SCHEMA
from dataset.formats.parts import PART_SCHEMA, SCORES_SCHEMA
from dataset.formats.release_embeddings import METADATA_SCHEMA
from dataset.formats.releases import HOSTS_SCHEMA, SOURCE_SCHEMA, data_schema, extended_schema
from dataset.formats.shards import SHARD_SCHEMA
from dataset.formats.side_tables import side_schema
from tracker.database.database import Connection

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:tracker|workers|dataset|tests|docker|docs|migrations)/[\w./-]+)`")


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_has_a_target(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in _anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = PATH.findall(page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists() and "NAME" not in path] == []


def _columns(heading: str) -> dict[str, str]:
    """Column -> type, of the table under a heading of docs/outputs.md."""
    page = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    columns: dict[str, str] = {}
    for names, types in re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", section, re.MULTILINE):
        named, typed = re.findall(r"`(\w+)`", names), re.split(r", (?!tz=)", types.strip())
        columns.update(zip(named, typed * len(named) if len(typed) == 1 else typed, strict=True))
    return columns


@pytest.mark.parametrize(
    ("heading", "schema"),
    [
        ("Pack", LIST_PACK_SCHEMA),
        ("Shard", SHARD_SCHEMA),
        ("Part", PART_SCHEMA),
        ("Scores", SCORES_SCHEMA),
        ("Manifest", MANIFEST_SCHEMA),
        ("Release data", data_schema("multi", aesthetic=True)),
        ("Release extended", extended_schema({})),
        ("Release source", SOURCE_SCHEMA),
        ("Release hosts", HOSTS_SCHEMA),
        ("Release embeddings", METADATA_SCHEMA),
        ("Side tables", side_schema(pa.schema([]))),
        ("Duplicates", side_schema(DUPLICATES)),
        ("Mask", MASK),
        ("Labels", LABEL_SCHEMA),
        ("Deny list", DENY_SCHEMA),
    ],
)
def test_the_page_of_outputs_has_every_column_with_its_type(heading: str, schema: pa.Schema) -> None:
    assert _columns(heading) == {field.name: str(field.type) for field in schema}


def test_the_page_of_settings_has_every_setting_with_its_default(admin: Connection) -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    listed = {
        name: value.replace(",", "")
        for name, value in re.findall(r"^\| `([a-z_]+)` \| ([\d.,]+) \|", page, re.MULTILINE)
    }
    rows = admin.execute("SELECT name, value::text FROM tracker.setting").fetchall()
    assert listed == {row["name"]: row["value"] for row in rows}
