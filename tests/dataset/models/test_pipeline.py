"""The pipeline when memory, a device or a decoder fails; and results that do not depend on the speed."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from dataset.formats.shards import Sample
from dataset.models.clip import ClipModel, load_model
from dataset.models.decoders import CHUNK_SAMPLES, _Decoder
from dataset.models.files import ModelError
from dataset.models.oldest_first import OldestFirstExecutor, prefetch
from dataset.models.pipeline import EmbeddedBatch, Pipeline
from dataset.models.towers import DeviceError, Precision, Towers, device_faults
from dataset.recipe.recipe import ModelRecipe
from tests.dataset.filter.test_shard import downloaded
from tests.demo.pictures import caption, random_scene, render

DEMO = Path(__file__).parents[2] / "demo" / "clip"
SPEC = ModelRecipe("demo", str(DEMO), 0.28)


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    rng = np.random.default_rng(11)
    found = []
    for number in range(12):
        scene = random_scene(rng)
        picture = downloaded(render(scene, (320, 240), rng))
        found.append(sample(number, picture.data, caption(scene, "en") + " of a long alt text" * (number % 7)))
    return found


def sample(number: int, image: bytes, text: str) -> Sample:
    return Sample(f"{number:015d}", image, "http://a.example", text, "en", "en", 1, number, 320, 240, 320, 240)


@pytest.fixture(scope="module")
def loaded() -> ClipModel:
    return load_model(SPEC, device="cpu")


@pytest.fixture
def model(loaded: ClipModel) -> Iterator[ClipModel]:
    most = loaded.towers.most
    yield loaded
    loaded.towers.most = most


def embedded(model: ClipModel, samples: list[Sample], **settings: Any) -> EmbeddedBatch:
    with Pipeline(**settings) as pipeline:
        (batch,) = pipeline.embed([(model, samples)])
    return batch


class Failing:
    """Stands in for a network: its image tower fails as long as `fails` says so."""

    def __init__(self, network: Any, fails: Callable[[torch.Tensor], Exception | None]) -> None:
        self._network, self._fails = network, fails
        self.sizes: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(pixels))
        if error := self._fails(pixels):
            raise error
        return cast(torch.Tensor, self._network.encode_image(pixels))


def failing(
    model: ClipModel, monkeypatch: pytest.MonkeyPatch, fails: Callable[[torch.Tensor], Exception | None]
) -> Failing:
    network = Failing(model.towers.network, fails)
    monkeypatch.setattr(model.towers, "network", network)
    monkeypatch.setattr(
        "dataset.models.towers.functional_call",
        lambda network, *given, **more: FUNCTIONAL(network._network, *given, **more),
    )
    return network


FUNCTIONAL = torch.func.functional_call


# --- what fails


def test_a_batch_that_does_not_fit_the_memory_is_halved_until_it_does(
    model: ClipModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embedded(model, samples)
    network = failing(
        model, monkeypatch, lambda pixels: torch.OutOfMemoryError("out of memory") if len(pixels) > 3 else None
    )
    batch = embedded(model, samples)
    assert network.sizes == [12, 6, 3, 3, 3, 3]
    assert np.allclose(batch.image_features, whole.image_features, atol=1e-6)
    embedded(model, samples)
    assert network.sizes[6:] == [3, 3, 3, 3]  # it remembers


def test_a_device_without_memory_for_one_sample_is_an_error(
    model: ClipModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(model, monkeypatch, lambda _: torch.OutOfMemoryError("out of memory"))
    with pytest.raises(DeviceError, match="too little memory for a single sample"):
        embedded(model, samples)


def test_a_failed_device_is_an_error(model: ClipModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch) -> None:
    fault = getattr(torch, "AcceleratorError", RuntimeError)  # torch 2.8 and newer have the first
    failing(model, monkeypatch, lambda _: fault("CUDA error: unspecified launch failure"))
    with pytest.raises(DeviceError, match="unspecified launch failure"):
        embedded(model, samples)


def test_before_torch_2_8_a_failed_device_is_told_by_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "AcceleratorError", raising=False)
    with pytest.raises(DeviceError, match="unspecified launch failure"), device_faults():
        raise RuntimeError("CUDA error: unspecified launch failure")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), device_faults():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)")


def test_a_sample_without_a_finite_row_costs_only_itself(
    model: ClipModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(towers: Towers, pixels: torch.Tensor) -> torch.Tensor:
        rows = encode(towers, pixels)
        rows[4], rows[5], rows[6] = torch.nan, torch.inf, 0
        return rows

    encode = Towers._images
    whole = embedded(model, samples)
    monkeypatch.setattr(Towers, "_images", spoilt)
    batch = embedded(model, samples)
    assert batch.without_direction == samples[4:7]
    assert batch.samples == samples[:4] + samples[7:]
    assert np.array_equal(batch.image_features, np.delete(whole.image_features, [4, 5, 6], 0))
    assert np.array_equal(batch.text_features, np.delete(whole.text_features, [4, 5, 6], 0))


def test_what_overflows_in_half_precision_is_embedded_once_more_in_full(
    loaded: ClipModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(towers: Towers, pixels: torch.Tensor) -> torch.Tensor:
        rows = encode(towers, pixels)
        if torch.is_autocast_enabled("cpu"):
            rows[2] = torch.inf
        return rows

    encode = Towers._images
    monkeypatch.setattr(Towers, "_images", overflowing)
    half = load_model(SPEC, device="cpu", precision=Precision.BFLOAT16)
    full = embedded(loaded, samples)
    batch = embedded(half, samples)
    assert batch.without_direction == []
    assert np.allclose(batch.image_features[2], full.image_features[2], atol=1e-5)
    assert not np.array_equal(batch.image_features[3], full.image_features[3])


def test_a_batch_without_one_finite_row_is_the_machines_fault_and_not_the_samples(
    model: ClipModel, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Towers, "_images", lambda towers, pixels: torch.full((len(pixels), 128), torch.nan))
    with pytest.raises(ModelError, match="no finite row for any of 12 samples"):
        embedded(model, samples)


@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGSTOP])
def test_a_picture_that_kills_its_decoder_costs_only_itself(
    model: ClipModel, samples: list[Sample], fate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = b"a picture that no codec survives"
    ask = _Decoder.ask

    def deadly(decoder: _Decoder, task: Any, images: Any, *rest: Any) -> Any:
        if poison in images:
            decoder._socket.settimeout(0.05)
            os.kill(decoder.pid, fate)
        return ask(decoder, task, images, *rest)

    monkeypatch.setattr(_Decoder, "ask", deadly)
    good = samples * (CHUNK_SAMPLES // len(samples) + 1)  # more than one chunk, of which the first one is whole
    bad = [sample(97, b"no picture", "🦈" * 3_000), sample(98, poison, "a caption")]
    with_poison, without = embedded(model, good + bad, processes=2), embedded(model, good)
    assert with_poison.samples == without.samples == good
    assert with_poison.undecodable == bad
    assert np.array_equal(with_poison.image_features, without.image_features)
    assert np.array_equal(with_poison.text_features, without.text_features)


def test_a_batch_of_which_nothing_can_be_decoded_reaches_no_device(model: ClipModel) -> None:
    batch = embedded(model, [sample(1, b"no picture", "text"), sample(2, b"", "text")])
    assert [found.key for found in batch.undecodable] == ["000000000000001", "000000000000002"]
    assert batch.image_features.shape == batch.text_features.shape == (0, model.dimensions)


# --- that speed changes no number


def test_a_text_cut_to_its_length_has_the_row_of_the_padded_one(model: ClipModel) -> None:
    texts = ["", "a red star", "word " * 20, "word " * 200, "🦈" * 300, "<end_of_text> a blue dot"]
    tokens = torch.from_numpy(model.preparation.tokens(texts))
    with torch.inference_mode():
        padded = torch.nn.functional.normalize(model.towers.network.encode_text(tokens.long()), dim=-1)
    assert torch.allclose(model.towers.texts(tokens), padded, atol=1e-6)


def test_pixels_normalised_on_the_device_are_open_clips_to_the_bit(model: ClipModel, samples: list[Sample]) -> None:
    import io

    import open_clip
    from PIL import Image

    _, theirs = open_clip.create_model_from_pretrained(f"local-dir:{DEMO}", device="cpu")
    pictures = [Image.open(io.BytesIO(one.image)) for one in samples]
    with torch.inference_mode():
        rows = model.towers.network.encode_image(torch.stack([theirs(picture) for picture in pictures]))
    assert np.array_equal(embedded(model, samples).image_features, torch.nn.functional.normalize(rows, dim=-1).numpy())


def test_other_samples_do_not_change_a_row(model: ClipModel, samples: list[Sample]) -> None:
    alone = embedded(model, samples)
    with Pipeline() as pipeline:
        beside = threading.Thread(target=lambda: list(pipeline.embed([(model, samples[:5])] * 5)))
        beside.start()
        batches = list(pipeline.embed([(model, samples)] * 3))
        beside.join()
    for batch in batches:
        assert np.array_equal(batch.image_features, alone.image_features)


# --- the executor


def test_the_oldest_is_served_first_whenever_a_thread_is_free() -> None:
    executor, begun, may_go, order = OldestFirstExecutor(1, "test"), threading.Event(), threading.Event(), list[int]()

    def block() -> None:
        begun.set()
        may_go.wait(60)

    executor.submit(9, block)
    begun.wait(60)
    waiting = [executor.submit(age, lambda age=age: order.append(age)) for age in (3, 1, 2, 1)]  # type: ignore[misc]
    may_go.set()
    for one in waiting:
        one.result(60)
    executor.close()
    assert order == [1, 1, 2, 3]


def test_no_more_is_begun_than_was_allowed_ahead() -> None:
    executor = OldestFirstExecutor(1, "test")
    begun: list[int] = []

    def started() -> Iterator[Any]:
        for number in range(10):
            begun.append(number)
            yield executor.submit(0, lambda number=number: number)  # type: ignore[misc]

    results = prefetch(started(), 2, lambda: None)
    assert next(results) == 0
    assert begun == [0, 1, 2]
    assert list(results) == list(range(1, 10))
    executor.close()


def test_waiting_work_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    monkeypatch.setattr("dataset.models.oldest_first.WAIT_SECONDS", 0.001)
    executor, may_go = OldestFirstExecutor(1, "test"), threading.Event()
    executor.submit(0, lambda: may_go.wait(60))
    waiting = executor.submit(1, lambda: None)
    with pytest.raises(StopError):
        list(prefetch([waiting], 1, stop))
    may_go.set()
    executor.close()


def test_what_a_thread_raises_is_raised_where_the_result_is_asked_for() -> None:
    executor = OldestFirstExecutor(1, "test")
    with pytest.raises(ZeroDivisionError):
        executor.submit(0, lambda: 1 // 0).result(60)
    executor.close()


# --- the compiled tower


def bent(graph: torch.fx.GraphModule, _: list[torch.Tensor]) -> Callable[..., Any]:
    """Stand in for a compiler that changes numbers."""
    return lambda *inputs: tuple(out * torch.linspace(0.9, 1.1, out.shape[-1]) for out in graph(*inputs))


def broken(_: torch.fx.GraphModule, __: list[torch.Tensor]) -> Callable[..., Any]:
    raise RuntimeError("no compiler here\nsee the manual")


@pytest.fixture
def towers() -> Towers:
    return load_model(SPEC, device="cpu").towers


def test_a_compiled_tower_gives_the_same_rows_for_any_number(towers: Towers) -> None:
    pixels = torch.randint(0, 256, (7, 64, 64, 3), dtype=torch.uint8)
    plain = [towers.images(pixels[:n]) for n in (7, 4, 1)]
    assert towers.compile((64, 64), 7, "aot_eager") is None
    assert towers.compiled
    for rows in plain:
        assert torch.allclose(towers.images(pixels[: len(rows)]), rows, atol=1e-6)


@pytest.mark.parametrize(("backend", "reason"), [(bent, "rows differ by"), (broken, "no compiler here")])
def test_a_tower_that_cannot_be_compiled_well_stays_as_it_is(
    towers: Towers, backend: Callable[..., Any], reason: str
) -> None:
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    plain = towers.images(pixels)
    said = towers.compile((64, 64), 2, backend)
    assert said is not None
    assert reason in said
    assert not towers.compiled
    assert torch.equal(towers.images(pixels), plain)
