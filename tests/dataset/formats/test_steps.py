"""Plans and results of units are read as they were written, and anything else is refused."""

import json

import pytest

from dataset.formats.steps import Step, UnitFile, UnitResult, plan_from_json, plan_to_json

PLAN = (Step("train", 1), Step("add", 12), Step("merge", 0), Step("finish", 1))


def test_a_plan_and_a_result_read_back_as_they_were_written() -> None:
    result = UnitResult(7, 5, (UnitFile("index/m/000/codes.bin", 5, 1_000),))
    assert plan_from_json(json.loads(json.dumps(plan_to_json(PLAN)))) == PLAN
    assert UnitResult.from_json(result.to_json()) == result


@pytest.mark.parametrize(
    "plan",
    [
        None,
        {"train": 1},
        ["train"],
        [["train"]],
        [["train", -1]],
        [["train", True]],
        [["train", 1.0]],
        [["", 1]],
        [["add", 1], ["add", 2]],
    ],
)
def test_an_invalid_plan_is_refused(plan: object) -> None:
    with pytest.raises(ValueError, match="step"):
        plan_from_json(plan)


@pytest.mark.parametrize("text", ["[]", '{"rows_in": 1}', '{"rows_in": 1, "rows_out": "1", "files": []}'])
def test_an_invalid_result_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"it is|the key|rows_out"):
        UnitResult.from_json(text.encode())
