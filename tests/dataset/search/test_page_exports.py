"""What leaves the search page: exports, the basket, the commands that it shows, reports; and what operators see."""

import json
import shlex
import subprocess
from pathlib import Path

from typer.testing import CliRunner

from dataset.takedown.requests import list_requests
from tests.dataset.search.conftest import FIRST_ID, RESULTS, Shown
from tracker.main import app as tracker

NOTE_SAVED = """window.saved = null; URL.createObjectURL = (blob) => {
  blob.text().then((text) => { saved = text });
  return 'data:,';
}"""


def test_an_export_has_progress_and_a_file_and_the_basket_is_saved(shown: Shown) -> None:
    page = shown.browser
    shown.open("?term=1:id:15&facet=min-width%3D200")
    page.wait(f"{RESULTS} >= 60")
    shown.click("[data-export=parquet]")
    page.wait("document.querySelector('#export-said a')?.textContent === 'export.parquet'")
    assert "90 rows" in page.evaluate("document.querySelector('#export-said').textContent")
    page.press("Escape")
    page.evaluate(NOTE_SAVED)
    page.evaluate("document.querySelector('button.result').focus()")
    page.press("x")
    shown.click("[data-save=csv]")
    head, row, _ = page.wait("saved").split("\r\n")
    assert head.startswith("id,similarity_to_query,url,caption,WIDTH,HEIGHT")
    assert row.split(",")[0] == str(page.evaluate(FIRST_ID))
    shown.click("[data-save=parquet]")
    page.wait("document.querySelector('#export-said').textContent.includes(', 1 row;')")
    page.press("Escape")
    shown.click("#select")
    basket = "document.querySelector('#basket-said').textContent"
    page.wait(f"{basket}.startsWith(document.querySelector('#said').textContent.split(' ')[0])")
    shown.click("#clear")
    assert page.evaluate("document.querySelector('#basket').hidden")


def test_the_commands_of_an_export_work_when_pasted(shown: Shown, database: str, tmp_path: Path) -> None:
    page = shown.browser
    shown.open("?term=1:id:15&facet=min-width%3D200")
    page.wait(f"{RESULTS} >= 60")
    shown.click("[data-export=jsonl]")
    page.wait("document.querySelectorAll('#export-commands code').length === 3")
    commands = "[...document.querySelectorAll('#export-commands code')].map((one) => one.textContent)"
    curl, seed, _ = page.evaluate(commands)
    subprocess.run(curl, shell=True, check=True, cwd=tmp_path, stderr=subprocess.DEVNULL)
    ids = [json.loads(line)["id"] for line in (tmp_path / "export.jsonl").read_text().splitlines()]
    assert len(ids) == 90
    seeded = shlex.split(seed)
    assert seeded.pop(0) == "tracker"
    seeded[1] = str(tmp_path / seeded[1])
    done = CliRunner().invoke(tracker, seeded, env={"SHOAL_DATABASE_URL": database})
    assert "1 job added" in done.output, done.output


def test_a_report_becomes_a_request(shown: Shown) -> None:
    page = shown.browser
    shown.open("?term=1:id:15")
    page.wait(f"{RESULTS} === 60")
    shown.click("button.result")
    page.wait("document.querySelector('#detail').open")
    shown.click("[data-act=report]")
    page.type("privacy")
    page.press("Enter")
    page.wait("document.querySelector('#detail-said').textContent.includes('waits for a decision')")
    (request,) = list_requests(shown.store, pending=True)
    assert request.reason == "privacy"


def test_an_operator_sees_where_a_row_came_from(shown: Shown) -> None:
    page = shown.browser
    shown.open("?term=1:id:15")
    page.wait(f"{RESULTS} === 60")
    shown.click("button.result")
    shown.click("#trace summary")
    page.evaluate("document.querySelector('#token').focus()")
    page.type("wrong")
    page.press("Enter")
    page.wait("document.querySelector('#detail-said').textContent === \"This needs the operator's token.\"")
    page.evaluate("document.querySelector('#token').select()")
    page.type("secret")
    page.press("Enter")
    link = page.wait("document.querySelector('#traced a')?.outerHTML")
    assert link == '<a href="https://page.example/" target="_blank" rel="noreferrer">https://page.example/</a>'
