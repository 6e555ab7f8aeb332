"""The tables of the console are complete at 80 columns, in a pipe, and on one screen."""

import io
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from tests.tracker.filling import fill_pool, new_run
from tracker.admin import fleet_table, jobs, list_commands
from tracker.admin.listing import Column, Listing, short, span
from tracker.admin.status import StatusView
from tracker.database.database import Connection
from tracker.watch.snapshot import take_snapshot

LONG_HOST = "ip-10-0-139-12.eu-central-1.compute.internal"


def printed(shown: RenderableType, width: int = 80, height: int = 24) -> list[str]:
    """The lines as a pipe of so many columns gets them."""
    console = Console(width=width, height=height, file=io.StringIO())
    console.print(shown)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert all(cell_len(line) <= width for line in lines), lines
    return lines


@pytest.fixture
def large(admin: Connection) -> dict[str, Any]:
    """The status of a swarm with the largest numbers there are, 3,000 workers and a long error."""
    fill_pool(admin, new_run(admin, "CC-MAIN-2024-22", wats=3), 10)
    seen = take_snapshot(admin)
    counts = dict.fromkeys(("ready", "leased", "dead", "expired", "done"), 9_876_543_210)
    for name, queue in seen["queues"].items():
        queue.update(counts, oldest_ready_seconds=9e8, held=name == "extract", paused=name == "filter")
    for rate in seen["rates"].values():
        rate.update(rows_in_per_second=123456.7, rows_out_per_second=98765.4)
    outcomes = {f"{letter}_outcome_of_18_cha": 9_876_543_210 for letter in "abcdefghijklmnopqrst"}
    seen.update(finished=outcomes, filtered={"below_threshold": 9_876_543_210}, again=9_876_543_210)
    seen["pool_by_subset"] = dict.fromkeys(seen["pool_by_subset"], 9_876_543_210)
    seen["workers"] = [worker(number) for number in range(3000)]
    seen["errors"] = [{"job_id": 1, "queue": "extract", "state": "ready", "error": "OSError: " + "x" * 500}]
    seen["alive"] = dict.fromkeys(seen["alive"], 3000)
    return seen


def worker(number: int) -> dict[str, Any]:
    return {
        "worker": f"{number:08x}-0000-0000-0000-000000000000", "kind": "download", "host": LONG_HOST, "pid": 4194304,
        "seen_seconds_ago": 86000.0, "leases": 100, "jobs_per_hour": 3600.0, "failures_last_hour": 100,
        "version": "0.1.0", "machine": "vm-001", "alive": number < 2990, "stuck": number > 2980, "state": "draining",
        "burnt_at": None, "burnt_reason": None, "progressed_seconds_ago": 3600.0,
    }  # fmt: skip


def test_every_heading_and_number_of_the_status_is_whole_at_80_columns(large: dict[str, Any]) -> None:
    lines = printed(StatusView(large))
    headings = next(line.split() for line in lines if line.startswith("queue"))
    assert " ".join(headings) == "queue ready leased expired dead done oldest alive in/s out/s state"
    extract = next(line.split() for line in lines if line.startswith("extract"))
    assert extract[1:7] == ["9.88G", "9.88G", "9.88G", "9.88G", "9.88G", "10,417"]
    assert sum("9,876,543,210" in line for line in lines) > 20
    assert sum(LONG_HOST[:8] in line for line in lines) == 40
    assert "and 2,960 more: see tracker workers" in lines


def test_more_columns_come_where_there_is_room(large: dict[str, Any]) -> None:
    wide = printed(StatusView(large), width=200)
    assert any("rows in, 30 min" in line for line in wide)
    assert any(LONG_HOST in line and "vm-001" in line for line in wide)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 12), (200, 50)])
def test_a_screen_holds_all_that_is_watched_and_shows_workers_in_trouble_first(
    large: dict[str, Any], width: int, height: int
) -> None:
    for queue in ("index", "dedup", "tag"):  # nobody uses them, so they take no line of the screen
        large["alive"][queue] = 0
        large["queues"][queue] |= dict.fromkeys(("ready", "leased", "dead", "done"), 0)
    lines = printed(StatusView(large, is_one_screen=True), width, height)
    assert len(lines) <= height - 1
    assert not any(line.startswith("index") for line in lines)
    assert any(line.startswith("embed") for line in lines)
    workers = [line for line in lines if LONG_HOST[:8] in line]
    assert all("stuck" in line or "silent" in line for line in workers[:19])
    assert len(workers) >= (1 if height == 24 else 0)


def test_the_workers_are_whole_at_80_columns_but_for_their_hosts() -> None:
    heading, first, *_ = printed(fleet_table.render([worker(0), worker(2995)]))
    assert heading.split() == ["worker", "kind", "host", "pid", "seen", "leases", "jobs/h", "failed", "state"]
    assert first.split()[0] == "00000000"
    assert first.split()[2].endswith("…")
    assert first.split()[3:] == ["4194304", "24", "h", "100", "3600.0", "100", "draining"]


def test_an_error_of_a_job_has_the_whole_width(admin: Connection) -> None:
    new_run(admin, "a-run-with-a-name-that-is-rather-long-as-names-go", wats=1)
    error = "OSError: the store s3://bucket/crawl cannot be reached: SlowDown (503), asked again for a minute"
    admin.execute("UPDATE tracker.job SET error = %s", (error,))
    heading, row, *note = printed(jobs.render(jobs.jobs(admin, jobs.Choice(), limit=1)))
    assert " ".join(heading.split()) == "job queue state run try priority since"
    assert row.split()[1:3] == ["extract", "ready"]
    assert " ".join(line.strip() for line in note) == error


def test_the_numbers_of_a_link_list_are_whole_and_its_path_has_a_line() -> None:
    path = "s3://bucket/lists/a-list-of-links-with-a-rather-long-name/part-00000-of-00128.parquet"
    numbers = dict.fromkeys(("pieces", "read", "rows", "candidates", "duplicates", "mended"), 1_234_567)
    row = {"run": "laion2B-en", "list": path, "dropped": {"bad_url": 1_234_567}} | numbers
    heading, first, *notes = printed(list_commands._render([row]))
    assert " ".join(heading.split()) == "run pieces read rows candidates duplicates mended"
    assert first.split() == ["laion2B-en", *["1,234,567"] * 6]
    assert "".join(line.strip() for line in notes) == f"{path}dropped: bad_url 1,234,567"


def test_columns_give_way_in_order() -> None:
    columns = [Column("a"), Column("host", shrinks=True), Column("first", optional=True), Column("last", optional=True)]
    table = Listing(columns)
    table.add("1", "host-name", "2", "3")
    shown = [" ".join(printed(table, width=width)[1].split()) for width in (40, 25, 20, 11, 8)]
    assert shown == ["1 host-name 2 3", "1 host-name 2 3", "1 host-name 2", "1 host-name", "1 host-…"]


@pytest.mark.parametrize(
    ("number", "said"),
    [(0, "0"), (99_999, "99,999"), (99_999.6, "100k"), (123_456, "123k"), (999_600, "1.00M"), (1_234_567, "1.23M"),
     (45_678_901, "45.7M"), (6_000_000_000, "6.00G"), (987_654_321_000, "988G")],
)  # fmt: skip
def test_a_large_number_is_short(number: float, said: str) -> None:
    assert short(number) == said
    assert len(said) <= 6


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (3600, "60 min"), (6000, "2 h"), (86400, "24 h"), (200_000, "2 d")],
)
def test_a_time_is_short(seconds: float, said: str) -> None:
    assert span(seconds) == said
