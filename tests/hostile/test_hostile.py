"""Hundreds of hostile pictures through the real download path: each has an outcome, and the worker survives."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataset.formats.parts import Verdict
from dataset.models.pipeline import Pipeline
from dataset.pictures.outcomes import Outcome
from dataset.recipe.image_rules import ImageRules, ResizeMode
from dataset.store.store import Store
from tests.hostile import memory
from tests.hostile.mutants import bombs, mutants, seeds
from tests.hostile.stored import demo_model, try_stored
from tests.hostile.trial import End, try_pictures
from workers.download.decoder_pool import Decoders

RESIZED = ImageRules()
AS_RECEIVED = replace(RESIZED, reencode=False, resize_mode=ResizeMode.NO)

PICTURES = 400

MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"GIF89a", b"RIFF    WEBPVP8 ", b"\0\0\0\x10ftypavif", b"")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


def trial(pictures: list[bytes], rules: ImageRules, store: Store, seconds: float) -> list[End]:
    async def bounded() -> list[End]:
        with Decoders(seconds=10.0) as decoders, trio.fail_after(seconds):
            return await try_pictures(pictures, rules, store, decoders)

    return trio.run(bounded)


@pytest.mark.parametrize("rules", [RESIZED, AS_RECEIVED], ids=["resized", "as received"])
def test_each_hostile_picture_has_one_outcome(rules: ImageRules, store: Store) -> None:
    pictures = [data for _, data in islice(mutants(), PICTURES)]
    ends = trial(pictures, rules, store, seconds=120.0)
    assert {Outcome.SUCCESS, Outcome.UNDECODABLE, Outcome.TOO_MANY_PIXELS} <= {end.outcome for end in ends}


def test_the_undamaged_pictures_are_kept(store: Store) -> None:
    ends = trial(list(seeds().values()), RESIZED, store, seconds=30.0)
    assert dict(zip(seeds(), ends, strict=True)) == dict.fromkeys(seeds(), End(Outcome.SUCCESS, None))


def test_decompression_bombs_do_not_use_up_memory(store: Store) -> None:
    by_name = dict(bombs())
    ends = trial(
        [by_name["png, a gigabyte of text"], by_name["png, more pixels than allowed"]], RESIZED, store, seconds=30.0
    )
    assert [end.outcome for end in ends] == [Outcome.SUCCESS, Outcome.TOO_MANY_PIXELS]


STORED_PICTURES = 40
MAX_PEAK_MIB = 400


def test_each_hostile_picture_in_a_shard_has_a_verdict_and_the_worker_does_not_grow(store: Store) -> None:
    pictures = [data for _, data in islice(mutants(), STORED_PICTURES)]
    model = demo_model()
    with Pipeline() as pipeline:
        try_stored(list(seeds().values()), store, model, pipeline)
        before = memory.resident_mib()
        memory.forget_peak()
        verdicts = try_stored(pictures, store, model, pipeline)
        assert memory.peak_mib() < before + MAX_PEAK_MIB
    assert {Verdict.KEPT, Verdict.UNDECODABLE} == set(verdicts)


def test_the_undamaged_pictures_are_scored_in_every_format(store: Store) -> None:
    with Pipeline() as pipeline:
        verdicts = try_stored(list(seeds().values()), store, demo_model(), pipeline)
    assert dict(zip(seeds(), verdicts, strict=True)) == dict.fromkeys(seeds(), Verdict.KEPT)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(min_size=0, max_size=200), min_size=1, max_size=20))
def test_any_bytes_that_a_server_calls_a_picture_have_one_outcome(store: Store, bodies: list[bytes]) -> None:
    magic = (
        b"\xff\xd8\xff",
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBPVP8 ",
        b"\0\0\0\x10ftypavif",
        b"",
    )
    pictures = [magic[n % len(magic)] + body for n, body in enumerate(bodies)]
    trial(pictures, replace(AS_RECEIVED, min_bytes=0), store, seconds=30.0)
