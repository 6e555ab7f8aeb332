"""The demo's checks fail if something is wrong: each fault is made once."""

from dataclasses import replace

from tests.demo.checks import KEPT, Results, check_results
from tests.demo.planting import Link
from tests.demo.plants import FATES, Plant

PLANTS = [Plant.MATCHED] * 20 + [Plant.MISMATCHED] * 20 + [Plant.NOT_FOUND, Plant.ALT_TOO_SHORT, Plant.NAME]
LINKS = [
    Link(
        number,
        plant,
        "127.1.1.1",
        f"http://127.1.1.1/{number}.jpg",
        "a caption",
        None if plant is Plant.NAME else "en",
        FATES[plant].outcome,
        FATES[plant].pair,
    )
    for number, plant in enumerate(PLANTS)
]
ALL = {
    "every link is finished exactly once, duplicates too",
    "nothing else became a candidate",
    "every outcome is the one that was planted",
    "every sample is scored exactly once",
    KEPT,
    "mismatched pairs are dropped",
    "captions get their language, names get no language",
}


def sound_results() -> Results:
    results = Results()
    for link in LINKS:
        if link.outcome is not None:
            results.outcomes[link.url] = [link.outcome]
            results.languages[link.url] = link.language
        if link.outcome == "success":
            results.samples += 1
            results.keys[link.url] = 1
        if link.plant is Plant.MATCHED:
            results.kept[link.url] = 1
    return results


def refused(results: Results) -> set[str]:
    return {check.question for check in check_results(LINKS, results) if not check.holds}


def test_a_sound_run_passes_every_check() -> None:
    assert {check.question for check in check_results(LINKS, sound_results())} == ALL
    assert refused(sound_results()) == set()


def test_an_empty_run_passes_no_check_that_asks_for_something() -> None:
    assert refused(Results()) == ALL - {"nothing else became a candidate", "every sample is scored exactly once"}


def test_a_lost_link_is_seen() -> None:
    results = sound_results()
    del results.outcomes[LINKS[40].url]
    assert refused(results) == {"every link is finished exactly once, duplicates too"}


def test_a_link_that_is_finished_twice_is_seen() -> None:
    results = sound_results()
    results.outcomes[LINKS[40].url] *= 2
    assert refused(results) == {"every link is finished exactly once, duplicates too"}


def test_a_candidate_that_should_have_been_dropped_is_seen() -> None:
    results = sound_results()
    results.outcomes[LINKS[41].url] = ["not_found"]
    assert "nothing else became a candidate" in refused(results)


def test_a_wrong_outcome_is_seen_and_named() -> None:
    results = sound_results()
    results.outcomes[LINKS[40].url] = ["gone"]
    (found,) = (check for check in check_results(LINKS, results) if not check.holds)
    assert found.question == "every outcome is the one that was planted"
    assert "not_found ended as gone" in found.said


def test_a_sample_that_was_never_scored_or_scored_twice_is_seen() -> None:
    results = sound_results()
    del results.keys[LINKS[0].url]
    assert refused(results) == {"every sample is scored exactly once"}
    results = sound_results()
    results.keys[LINKS[0].url] = 2
    assert refused(results) == {"every sample is scored exactly once"}


def test_one_wrong_verdict_in_twenty_is_let_pass_and_two_are_not() -> None:
    results = sound_results()
    del results.kept[LINKS[0].url]
    results.kept[LINKS[20].url] = 1
    assert refused(results) == set()
    del results.kept[LINKS[1].url]
    results.kept[LINKS[21].url] = 1
    assert refused(results) == {KEPT, "mismatched pairs are dropped"}


def test_languages_that_are_often_wrong_are_seen() -> None:
    results = sound_results()
    for link in LINKS[:5]:
        results.languages[link.url] = "jv"
    assert refused(results) == {"captions get their language, names get no language"}


def test_a_name_that_was_given_a_language_counts_as_wrong() -> None:
    results = sound_results()
    results.languages[replace(LINKS[42]).url] = "fi"
    (check,) = (check for check in check_results(LINKS, results) if check.question.startswith("captions"))
    assert check.said.startswith("41 of 42")


def test_a_marked_picture_need_not_be_kept() -> None:
    marked = replace(LINKS[0], url="http://127.1.1.1/red-circle-00006.jpg")
    results = sound_results()
    results.outcomes[marked.url] = ["success"]
    links = [marked, *LINKS]
    kept = {check.question: check.said for check in check_results(links, results)}[KEPT]
    assert kept == "20 of 20, 100.0 %"
