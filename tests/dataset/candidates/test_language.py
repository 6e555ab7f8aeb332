from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from dataset.candidates.language import CERTAIN, RELIABLE, Subset, classify_all, required_probability
from dataset.recipe.recipe import LanguageRule

CAPTIONS = {
    "A portrait of an old man with a hat, standing in front of his house": "en",
    "Ein roter Kreis auf blauem Grund, gemalt von einem kleinen Kind": "de",
    "Una foto de un perro que corre por la playa con sus amigos": "es",
    "Красивый закат над морем и горы на горизонте": "ru",
    "白い猫が窓のそばで寝ています": "ja",
}


def classify(text: str, rule: LanguageRule = LanguageRule.LAION) -> tuple[str, str | None, float | None]:
    """Classify one text by itself -> its subset, language and probability."""
    (found,) = zip(*(column.to_pylist() for column in classify_all(pa.array([text]), rule)), strict=True)
    return found


@pytest.mark.parametrize("rule", LanguageRule)
@pytest.mark.parametrize(("text", "language"), CAPTIONS.items())
def test_a_sentence_has_its_language_by_either_rule(text: str, language: str, rule: LanguageRule) -> None:
    subset, found, probability = classify(text, rule)
    assert found == language
    assert subset == (Subset.EN if language == "en" else Subset.MULTI)
    assert probability is not None
    assert 0.9 < probability <= 1


@pytest.mark.parametrize("rule", LanguageRule)
@pytest.mark.parametrize("text", ["12345", "...", "2019 – 2020", "", "😀😀😀"])
def test_a_text_without_letters_has_no_language(text: str, rule: LanguageRule) -> None:
    assert classify(text, rule) == (Subset.NOLANG, None, None)


def test_an_unsure_guess_is_nolang_and_keeps_its_probability() -> None:
    subset, language, probability = classify("Kaluemi Vespett")
    assert (subset, language) == (Subset.NOLANG, None)
    assert probability is not None
    assert 0 < probability < RELIABLE


def test_the_length_aware_rule_disbelieves_short_texts_that_laion_took_for_foreign() -> None:
    assert classify("red circle", LanguageRule.LAION)[:2] == (Subset.MULTI, "jv")
    assert classify("red circle", LanguageRule.LENGTH_AWARE)[:2] == (Subset.NOLANG, None)


def test_the_bar_falls_with_the_length_and_never_below_clds_own() -> None:
    bars = [required_probability("a" * n) for n in range(100)]
    assert bars == sorted(bars, reverse=True)
    assert bars[0] == pytest.approx(CERTAIN)
    assert bars[-1] == pytest.approx(RELIABLE)
    assert required_probability("猫" * 10) < required_probability("a" * 10)


def test_threads_do_not_disturb_each_other() -> None:
    texts = [*CAPTIONS] * 100
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(classify, texts)) == [classify(text) for text in texts]


@pytest.mark.parametrize("rule", LanguageRule)
@pytest.mark.parametrize("texts", [[], [*CAPTIONS, "12345", *CAPTIONS, "Kaluemi Vespett", "12345", "red circle"]])
def test_many_texts_are_classified_as_each_by_itself_where_some_are_equal(texts: list[str], rule: LanguageRule) -> None:
    labels = classify_all(pa.array(texts, pa.string()), rule)
    assert list(zip(*(column.to_pylist() for column in labels), strict=True)) == [
        classify(text, rule) for text in texts
    ]
    assert [column.type for column in labels] == [pa.string(), pa.string(), pa.float32()]
