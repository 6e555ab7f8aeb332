"""The safety drop: the reviewed file, invalid files, and that either picture or caption is sufficient."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset.formats.parts import Verdict
from dataset.recipe.recipe import ModelRole
from dataset.recipe.tags import SafetyRecipe, TagRecipeError, settle_safety
from dataset.safety.prompts import SafetyError, SafetyJudge, SafetyPrompts, parse_safety_prompts, read_safety_prompts
from dataset.store.store import Store

SMALL = """
version = 7
[axes.hot]
concern = ["fire"]
ordinary = ["water", "stone"]
margin = 0.1
[axes.young]
concern = ["kid"]
ordinary = ["stone"]
margin = 0.05
[[rules]]
reason = "unsafe_minor"
all = ["hot", "young"]
[[rules]]
reason = "unsafe"
all = ["hot"]
[labels.fire]
en = ["fire"]
de = ["Feuer"]
[labels.water]
en = ["water"]
[labels.stone]
en = ["stone"]
[labels.kid]
en = ["kid"]
"""
WORDS = ["fire", "Feuer", "water", "stone", "kid"]


class OneWordEach:
    """Embeds each known word along an axis of its own."""

    def embed_texts(self, texts: Sequence[str], /) -> Any:
        return np.stack([np.eye(len(WORDS), dtype=np.float32)[WORDS.index(text)] for text in texts])


def row(**words: float) -> Any:
    values = np.array([words.get(word, 0.0) for word in WORDS], np.float32)
    return values / np.linalg.norm(values)


@pytest.fixture
def prompts() -> SafetyPrompts:
    return parse_safety_prompts(SMALL.encode())


@pytest.fixture
def judge(prompts: SafetyPrompts) -> Callable[..., list[Verdict | None]]:
    def ask(image: Any, text: Any, role: ModelRole = ModelRole.EN) -> list[Verdict | None]:
        return SafetyJudge(prompts, role, OneWordEach()).drops(image[None], text[None])

    return ask


def test_picture_or_caption_suffices_for_an_axis_and_all_axes_make_a_rule(
    judge: Callable[..., list[Verdict | None]],
) -> None:
    plain = row(stone=1)
    assert judge(plain, plain) == [None]
    assert judge(row(fire=1), plain) == [Verdict.UNSAFE]
    assert judge(plain, row(fire=1)) == [Verdict.UNSAFE]
    assert judge(row(fire=1), row(kid=1)) == [Verdict.UNSAFE_MINOR]  # each axis by another side: dropped too
    assert judge(row(kid=1), row(fire=1)) == [Verdict.UNSAFE_MINOR]
    assert judge(row(kid=1), plain) == [None]


def test_the_margin_is_kept(judge: Callable[..., list[Verdict | None]]) -> None:
    assert judge(row(fire=1.05, stone=1), row(stone=1)) == [None]
    assert judge(row(fire=1.3, stone=1), row(stone=1)) == [Verdict.UNSAFE]


def test_only_the_multilingual_model_is_asked_in_other_languages(
    judge: Callable[..., list[Verdict | None]],
) -> None:
    assert judge(row(Feuer=1), row(stone=1), ModelRole.OTHER) == [Verdict.UNSAFE]
    assert judge(row(Feuer=1), row(stone=1), ModelRole.EN) == [None]


def test_no_order_of_labels_or_prompts_means_anything(prompts: SafetyPrompts) -> None:
    head, _, labels = SMALL.partition("[labels.fire]")
    blocks = ("[labels.fire]" + labels).strip().split("[labels.")[1:]
    turned = parse_safety_prompts((head + "".join(f"\n[labels.{block}" for block in reversed(blocks))).encode())
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(200, len(WORDS))).astype(np.float32)
    given = [SafetyJudge(one, ModelRole.OTHER, OneWordEach()).drops(rows, rows[::-1]) for one in (prompts, turned)]
    assert given[0] == given[1]
    assert set(given[0]) == {None, Verdict.UNSAFE, Verdict.UNSAFE_MINOR}


def test_nothing_is_dropped_of_nothing(prompts: SafetyPrompts) -> None:
    empty = np.empty((0, len(WORDS)), np.float32)
    assert SafetyJudge(prompts, ModelRole.EN, OneWordEach()).drops(empty, empty) == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('["fire"]\nordinary', '["ice"]\nordinary', "label ice, which has no prompts"),
        ('["water", "stone"]', '["water", "fire"]', "both sides"),
        ('en = ["kid"]', 'de = ["Kind"]', "no prompts in en"),
        ('en = ["kid"]', 'en = "kid"', "not a list of texts"),
        ('en = ["kid"]', "en = []", "not a list of texts"),
        ('en = ["kid"]', 'en = [" "]', "not a list of texts"),
        ('"unsafe"', '"kept"', "has the reason kept"),
        ('"unsafe"', '"ugly"', "Cannot read"),
        ('all = ["hot"]', 'all = ["cold"]', "unknown axis cold"),
        ("margin = 0.1", "margin = 7", "use -2 to 2"),
        ("margin = 0.1", "", "Cannot read"),
        ("version = 7", "version", "Cannot read"),
    ],
)
def test_a_file_that_does_not_hold_together_is_refused(old: str, new: str, sentence: str) -> None:
    assert old in SMALL
    with pytest.raises(SafetyError, match=sentence):
        parse_safety_prompts(SMALL.replace(old, new, 1).encode())


def test_the_reviewed_file_is_complete_and_no_prompt_has_two_labels(tmp_path: Path) -> None:
    prompts = read_safety_prompts(SafetyRecipe(), Store.open(str(tmp_path)))
    assert prompts is not None
    assert prompts.version == 1
    assert {rule.reason for rule in prompts.rules} == {Verdict.UNSAFE_MINOR, Verdict.UNSAFE_ANIMAL}
    languages = {frozenset(by_language) for by_language in prompts.labels.values()}
    assert languages == {frozenset(("en", "de", "es", "fr", "ru", "zh", "ja"))}
    for language in ("en", "de", "es", "fr", "ru", "zh", "ja"):
        texts = [text for by_language in prompts.labels.values() for text in by_language[language]]
        assert len(texts) == len(set(texts))
    used = {label for axis in prompts.axes.values() for label in (*axis.concern, *axis.ordinary)}
    assert used == set(prompts.labels)


def test_a_recipe_that_names_no_prompts_here_is_refused(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    with pytest.raises(SafetyError, match="builtin:99"):
        read_safety_prompts(SafetyRecipe("builtin:99"), store)
    with pytest.raises(SafetyError, match="Cannot read"):
        read_safety_prompts(SafetyRecipe(str(tmp_path / "none.toml")), store)
    assert read_safety_prompts(SafetyRecipe(None), store) is None


def test_other_wordings_under_the_same_name_are_refused(prompts: SafetyPrompts) -> None:
    settled = settle_safety(SafetyRecipe("store:safety.toml"), prompts.sha256)
    assert settle_safety(settled, prompts.sha256) == settled
    with pytest.raises(TagRecipeError, match="start a new run"):
        settle_safety(settled, "0" * 64)
