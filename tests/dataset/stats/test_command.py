"""The command on each kind of source, its outputs, and its page."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from dataset import main
from tests.laion_rows import laion_rows

HOSTILE = "<script>alert(1)</script> | `x` <img src=https://example.org/x onerror=alert(1)>"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main.app, ["stats", *arguments])


def printed(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


class TagsOf(HTMLParser):
    """The names of a page's tags."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("laion2B-en", "laion2B-multi"):
        (tmp_path / name).mkdir()
        pq.write_table(laion_rows(3_000, len(name)), tmp_path / name / "part-00000.parquet")
    return tmp_path


def test_a_folder_and_one_table_of_it_are_counted(folder: Path) -> None:
    assert printed(str(folder))["rows"] == 6_000
    assert printed(str(folder / "laion2B-en" / "part-00000.parquet"))["rows"] == 3_000


def test_markdown_fits_80_columns_and_has_a_column_a_subset(folder: Path) -> None:
    text = run(str(folder)).stdout
    assert re.search(r"^\|\s+\|\s+all \|\s+en \|\s+multi \|$", text, re.MULTILINE)
    assert re.search(r"^\| pairs\s+\|\s+6,000 \|\s+3,000 \|\s+3,000 \|$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80


def test_a_hostile_caption_stays_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"TEXT": [HOSTILE] * 3}), tmp_path / "a.parquet")
    text = run(str(tmp_path), "--html", str(tmp_path / "page.html")).stdout
    assert "<script>" not in re.sub(r"\\.", "", text)
    assert not TagsOf(tmp_path / "page.html").tags & {"script", "img", "link", "iframe"}


HEADINGS = ["Subsets", "Width and height", "Sides", "Sizes", "Aspect", "Caption length", "Similarity", "Unsafe"]
HEADINGS += ["Watermark", "Aesthetic score", "Languages", "Most frequent captions", "Distinct values", "Columns"]


def test_the_page_shows_the_figures_and_needs_nothing_from_elsewhere(folder: Path) -> None:
    assert run(str(folder), "--html", str(folder / "page.html")).exit_code == 0
    page = (folder / "page.html").read_text(encoding="utf-8")
    for heading in HEADINGS:
        assert f"<h2>{heading}</h2>" in page
    assert "default-src &#x27;none&#x27;" in page
    assert "url(" not in page
    assert "nan" not in page


LITTLE = {"no rows": laion_rows(0), "one column": pa.table({"URL": ["http://a/"]}), "one row": laion_rows(1)}


@pytest.mark.parametrize("table", LITTLE.values(), ids=LITTLE)
def test_a_page_of_little_is_still_a_page(table: pa.Table, tmp_path: Path) -> None:
    pq.write_table(table, tmp_path / "a.parquet")
    result = run(str(tmp_path), "--html", str(tmp_path / "page.html"))
    assert result.exit_code == 0, result.exception
    assert (tmp_path / "page.html").read_text(encoding="utf-8").endswith("</html>\n")


def test_a_missing_source_is_one_sentence(tmp_path: Path) -> None:
    result = run(str(tmp_path / "nothing"))
    assert "does not exist" in str(result.exception)
    assert "releases/none" in str(run("none", "--store", str(tmp_path)).exception)


def test_a_source_and_a_run_at_once_are_refused(tmp_path: Path) -> None:
    assert run(str(tmp_path), "--run", "crawl").exit_code == 2


def test_a_page_that_cannot_be_written_is_one_sentence(folder: Path) -> None:
    assert "Cannot write" in str(run(str(folder), "--html", str(folder / "no" / "page.html")).exception)
