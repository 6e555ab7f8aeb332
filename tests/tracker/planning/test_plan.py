"""A plan's numbers follow from its assumptions, and LAION's figures give LAION's results."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracker.filling import finished_job, new_run
from tests.tracker.talking import Console
from tracker.database.database import Connection
from tracker.errors import TrackerError
from tracker.planning.measured_rates import FROM_SETTINGS, with_measured
from tracker.planning.plan import LAION_5B, ORDINARY, STAGES, bloom_bytes, jpeg_bytes, make_plan, with_given


@pytest.fixture
def tracker(database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Console:
    return Console(database, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("workers.paint", 3, "there is no number workers.paint"),
        ("wages", 3, "there is no number wages"),
        ("links", -1, "give a number that is not negative"),
        ("kept_share", 1.5, "it is a share, 0 to 1"),
    ],
)
def test_an_invalid_number_of_a_plan_is_refused(name: str, value: float, remedy: str) -> None:
    with pytest.raises(TrackerError, match=remedy):
        with_given(ORDINARY, {name: value})


def test_a_stage_without_workers_would_never_end() -> None:
    with pytest.raises(TrackerError, match=r"filter would never end: give workers\.filter"):
        make_plan(with_given(ORDINARY, {"workers.filter": 0}))


def test_laions_figures_give_laions_results() -> None:
    made = make_plan(LAION_5B)
    assert made.stages["download"].rows / made.stages["download"].rate / 86_400 == pytest.approx(7, rel=0.05)
    assert made.stages["filter"].rows / made.stages["filter"].rate / 86_400 == pytest.approx(7, rel=0.05)
    assert made.days == pytest.approx(7.2, rel=0.05)  # both at once, the one just behind the other
    assert 5.85e9 * jpeg_bytes(384) == pytest.approx(240e12, rel=0.05)
    assert 5.85e9 * jpeg_bytes(224) == pytest.approx(80e12, rel=0.05)
    assert made.store_end_bytes == pytest.approx(240e12, rel=0.05)


def test_six_billion_rows_are_published_in_hours_with_memory_for_the_cores_alone() -> None:
    rows = {"links": 6e9, "new_share": 1, "success_share": 1, "kept_share": 1}
    release = make_plan(with_given(ORDINARY, rows)).release
    assert 2 <= release.publish_seconds / 3600 <= 4
    assert 1.1e12 <= release.release_bytes <= 1.3e12
    assert release.work_bytes == 3e12
    assert release.stats_seconds < release.publish_seconds / 5
    assert 30 <= release.dedup_seconds / 3600 <= 45
    ten_million = make_plan(with_given(ORDINARY, rows | {"links": 1e7})).release
    assert ten_million.dedup_seconds * 16 == pytest.approx(1_870, rel=0.01)  # as measured
    assert release.dedup_seconds > 600 * 2 * ten_million.dedup_seconds
    assert release.dedup_work_bytes == 6e9 * (1_100 + 2 * 1_536)  # with two copies of the embeddings
    million = make_plan(with_given(ORDINARY, rows | {"links": 1e6})).release
    assert million.dedup_work_bytes == pytest.approx(1.1e9)
    assert 45 <= release.index_seconds / 3600 <= 60
    assert 10e12 <= release.index_bytes <= 11e12
    assert 0.5 <= release.tag_seconds / 3600 <= 1
    assert 400 <= release.tag_pictures_seconds / 86_400 <= 600
    assert release.index_memory_bytes / 16 == pytest.approx(1.2e9 + 2**20 * 3_400)
    half = make_plan(with_given(ORDINARY, rows | {"publish_cores": 8})).release
    assert half.publish_seconds == 2 * release.publish_seconds
    assert half.memory_bytes == release.memory_bytes / 2
    small = make_plan(with_given(ORDINARY, rows | {"links": 1e8})).release
    assert small.index_memory_bytes / 16 == pytest.approx(1.2e9 + 1e8 / 4096 * 3_400)
    with pytest.raises(TrackerError, match="publish would never end"):
        make_plan(with_given(ORDINARY, {"publish_cores": 0}))


def test_fifty_billion_keys_at_one_percent_take_sixty_gigabytes_and_a_fifth_for_blocks() -> None:
    assert bloom_bytes(50e9, 0.01) / 1.2 == pytest.approx(60e9, rel=0.01)


def test_twice_the_workers_of_the_bottleneck_take_half_the_time() -> None:
    one = make_plan(with_given(ORDINARY, {"workers.download": 20}))
    two = make_plan(with_given(ORDINARY, {"workers.download": 40}))
    assert one.bottleneck == "download"
    assert two.days == pytest.approx(one.days / 2, rel=0.1)


def test_with_a_slow_filter_the_store_stays_under_its_mark() -> None:
    made = make_plan(with_given(ORDINARY, {"workers.download": 3000, "rates.filter": 2000, "shards_high_bytes": 1e12}))
    parts = made.pairs * ORDINARY.part_row_bytes.value
    assert made.bottleneck == "filter"
    assert made.store_peak_bytes <= 1.05e12 + parts


def test_fifty_billion_links_with_three_thousand_workers_keep_postgres_below_a_core() -> None:
    made = make_plan(
        with_given(
            ORDINARY,
            {
                "links": 50e9,
                "workers.extract": 64,
                "workers.ingest": 8,
                "workers.download": 3000,
                "workers.filter": 32,
            },
        )
    )
    assert made.finished
    assert made.draws_per_second == pytest.approx(3000 * 13.3 / 10_000, rel=0.01)
    assert 0.1 < made.database_cores < 1
    assert made.pool_rows <= 1.01 * ORDINARY.pool_high.value


@given(
    st.dictionaries(st.sampled_from([f"{g}.{s}" for g in ("workers", "rates") for s in STAGES]), st.floats(0.5, 1e5))
)
@settings(max_examples=25, deadline=None)
def test_what_goes_in_comes_out_whatever_the_rates(numbers: dict[str, float]) -> None:
    made = make_plan(with_given(ORDINARY, numbers | {"links": 1e6}))
    longest = max(one.rows / one.rate for one in made.stages.values()) / 86_400
    assert made.finished == (made.days < 3_650)
    assert made.days >= min(longest, 3_650) * 0.99
    assert made.stages[made.bottleneck].busy == pytest.approx(min(1.0, longest / made.days), abs=0.02)


def test_what_the_ledger_has_measured_takes_the_place_of_what_was_assumed(admin: Connection) -> None:
    run_id = new_run(admin)
    job = finished_job(admin, run_id)
    for account, label, n in (
        ("rows_in", "download", 6_000),
        ("rows_out", "download", 4_500),
        ("milliseconds", "download", 60_000),
        ("rows_in", "filter", 100),
        ("milliseconds", "filter", 5),
    ):
        admin.execute(
            "INSERT INTO tracker.ledger (run_id, job_id, account, label, n) VALUES (%s, %s, %s, %s, %s)",
            (run_id, job, account, label, n),
        )
    known = with_measured(admin, ORDINARY)
    assert (known.rates["download"].value, known.rates["download"].source) == (100, "measured")
    assert (known.success_share.value, known.success_share.source) == (0.75, "measured")
    assert known.rates["filter"] == ORDINARY.rates["filter"]  # five milliseconds say nothing
    assert known.batch_size.source == "measured"


def test_a_plan_without_a_database_assumes_what_the_settings_are_in_a_new_one(admin: Connection) -> None:
    known = with_measured(admin, ORDINARY)
    for name in FROM_SETTINGS.values():
        assert (getattr(known, name).source, getattr(known, name).value) == ("measured", getattr(ORDINARY, name).value)


def test_the_command_says_where_each_number_is_from(tracker: Console) -> None:
    data = tracker.json("plan", "--set", "links=1e9", "--set", "workers.download=50")
    assert data["bottleneck"] == "download"
    assert data["assumptions"]["links"] == {"value": 1e9, "source": "given", "note": ""}
    assert data["assumptions"]["pool_high"]["source"] == "measured"
    assert "held up by download" in tracker("plan", "--set", "workers.download=50").out
    assert "write it like links=5e9" in tracker.refusal("plan", "--set", "links=many")
