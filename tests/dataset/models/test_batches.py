"""Batches: full in number or in bytes, whichever comes first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset.formats.shards import LostSample, Sample
from dataset.models import batches
from dataset.models.batches import in_batches


def sample(number: int, size: int, subset: str = "en") -> Sample:
    return Sample(f"{number:015d}", bytes(size), "http://a.example", "", None, subset, 1, number, 1, 1, 1, 1)


def lost(number: int) -> LostSample:
    return LostSample(f"{number:015d}", "http://a.example", "", "its member is cut off")


def test_a_batch_of_large_pictures_has_fewer_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_BYTES", 100)
    sizes = [60, 40, 1, 99, 500, 1, 1, 1, 1]
    found = in_batches((sample(n, size) for n, size in enumerate(sizes)), lambda _: "", lambda _: 3)
    assert [[len(each.image) for each in batch] for _, batch in found] == [[60, 40], [1, 99], [500], [1, 1, 1], [1]]


@given(st.lists(st.tuples(st.sampled_from(["en", "multi"]), st.integers(0, 60), st.booleans())), st.integers(1, 5))
def test_every_sample_is_in_one_batch_of_its_kind_in_its_order(items: list[tuple[str, int, bool]], most: int) -> None:
    given_items = [sample(n, size, subset) if there else lost(n) for n, (subset, size, there) in enumerate(items)]

    def kind_of(item: Sample | LostSample) -> str:
        return items[int(item.key)][0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "BATCH_BYTES", 100)
        found = list(in_batches(given_items, kind_of, lambda _: most))
    for kind in ("en", "multi"):
        together = [item for of, batch in found if of == kind for item in batch]
        assert together == [item for item in given_items if kind_of(item) == kind]
    for _, batch in found:
        assert 1 <= len(batch) <= most
        assert len(batch) == 1 or sum(len(item.image) for item in batch if isinstance(item, Sample)) <= 100
