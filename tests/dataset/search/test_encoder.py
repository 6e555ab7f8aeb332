"""The encoder is a process of its own: texts go through it together and once, pictures are decoded in isolation."""

import asyncio
import base64
import io
import queue
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from dataset.models.encoder_process import gather
from dataset.search.encoder import MAX_TEXT_CHARACTERS, MOST_IN_FLIGHT, Encoder, EncoderOptions
from dataset.search.errors import SearchError
from dataset.search.metrics import Metrics
from tests.dataset.search.tiny import TinyEngine, served, tiny_engine, unit_rows

FOLDER = Path(__file__).parents[2] / "demo" / "clip"
OPTIONS = EncoderOptions("demo", str(FOLDER), None, "cpu", 1)
FIRST_VALUES = np.array([
    [-0.147028, 0.116949, -0.075619, -0.138296], [-0.021079, 0.240353, -0.123939, -0.176224],
    [-0.000918, -0.126586, 0.014371, 0.029979],
])  # fmt: skip
"""Of the model's vectors of two texts and of a red picture, from ClipModel itself."""
WITHOUT_TORCH = "tests.dataset.search.hashing_encoder"
T = TypeVar("T")


def with_encoder(test: Callable[[Encoder], Awaitable[T]]) -> T:
    """Run a test with an encoder process that loads no model."""

    async def run() -> T:
        encoder = Encoder(EncoderOptions("hashing", None, None), Metrics(), WITHOUT_TORCH)
        await encoder.start()
        try:
            async with asyncio.timeout(60):
                return await test(encoder)
        finally:
            await encoder.close()

    return asyncio.run(run())


def picture(colour: str = "red", kind: str = "PNG", size: tuple[int, int] = (90, 60)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def test_equal_texts_go_to_the_process_once() -> None:
    async def test(encoder: Encoder) -> None:
        rows = await asyncio.gather(*map(encoder.text, ["one", "two", "one"]))
        assert (rows[0] == rows[2]).all()
        assert not (rows[0] == rows[1]).all()
        assert (await encoder.text("two") == rows[1]).all()
        assert encoder.number == 2
        with pytest.raises(SearchError) as refused:
            await encoder.text("x" * (MAX_TEXT_CHARACTERS + 1))
        assert refused.value.status == 400

    with_encoder(test)


def test_a_process_that_dies_fails_what_is_in_flight_and_another_takes_its_place() -> None:
    async def test(encoder: Encoder) -> None:
        before = await encoder.text("one")
        with pytest.raises(SearchError) as refused:
            await asyncio.gather(encoder.text("never answered"), encoder.text("die"))
        assert refused.value.status == 503
        assert (await encoder.text("one") == before).all()  # known
        assert not encoder.is_up
        with pytest.raises(SearchError, match="being loaded"):
            await encoder.text("three")
        await encoder.came_up.wait()
        assert (await encoder.text("three")).shape == before.shape

    with_encoder(test)


def test_what_is_in_flight_is_bounded() -> None:
    async def test(encoder: Encoder) -> None:
        asked = [asyncio.create_task(encoder.text(f"never answered {n}")) for n in range(MOST_IN_FLIGHT)]
        await asyncio.sleep(0)
        with pytest.raises(SearchError) as refused:
            await encoder.text("one more")
        assert refused.value.status == 429
        with pytest.raises(SearchError) as refused:
            await encoder.picture(b"not a picture")
        assert refused.value.status == 422
        for one in asked:
            one.cancel()

    with_encoder(test)


@pytest.mark.parametrize("model", ["refused", "dying"])
def test_a_model_that_cannot_be_loaded_is_refused_with_the_reason(model: str) -> None:
    async def test() -> None:
        encoder = Encoder(EncoderOptions(model, None, None), Metrics(), WITHOUT_TORCH)
        try:
            await encoder.start()
        finally:
            await encoder.close()

    with pytest.raises(SearchError, match={"refused": "name another", "dying": "ended before"}[model]):
        asyncio.run(test())


def test_texts_that_arrive_together_are_taken_together_up_to_a_limit() -> None:
    items: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    for one in (1, 2, 3, 4, 5, None):
        items.put(one)
    assert [gather(items, 3, 10.0) for _ in range(3)] == [[1, 2, 3], [4, 5], []]


def test_the_server_answers_texts_and_pictures_of_its_indexes_model(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a red square", "a blue circle", "nothing at all"]
    table = tiny_engine(4).table
    ours = TinyEngine(unit_rows(4, dimensions=128), table, "ours")
    other = TinyEngine(unit_rows(4, dimensions=128), table, "other", model_sha256="f" * 64)

    async def start(metrics: Metrics) -> Encoder:
        encoder = Encoder(OPTIONS, metrics)
        ours.model_sha256 = (await encoder.start()).sha256
        rows = await asyncio.gather(*map(encoder.text, texts), encoder.picture(picture()))
        ours.vectors = np.stack(rows)
        return encoder

    data = base64.b64encode(picture()).decode()
    with served(ours, other, start=start) as client:
        knn = {"modality": "image", "num_images": 1, "indice_name": "ours", "use_safety_model": False}
        for asked, found in (
            ({"text": texts[1]}, 11),
            ({"text": texts[1], "image": data}, 11),
            ({"text": "", "image": data}, 13),
            ({"image": "data:image/png;base64," + data}, 13),
        ):
            answer = client.ask("/knn-service", {**knn, **asked})
            assert answer.json()[0]["id"] == found
            assert answer.json()[0]["similarity"] == pytest.approx(1.0, abs=1e-3)
        embedded = client.ask("/api/embed", {"terms": [{"text": texts[0]}, {"picture": data}]}).json()["vector"]
        assert ours.vectors[[0, 1, 3], :4] == pytest.approx(FIRST_VALUES, abs=1e-3)
        wanted = ours.vectors[0] + ours.vectors[3]
        assert embedded == pytest.approx((wanted / np.linalg.norm(wanted)).tolist(), abs=1e-3)
        statuses = {
            "another model": client.ask("/knn-service", {**knn, "indice_name": "other", "text": "x"}).status,
            "no picture": client.ask("/knn-service", {**knn, "image": base64.b64encode(b"x").decode()}).status,
            "no base64": client.ask("/knn-service", {**knn, "image": "!"}).status,
            "no fetcher": client.ask("/knn-service", {**knn, "image_url": "https://a.example/a.jpg"}).status,
        }
        assert statuses == {"another model": 409, "no picture": 422, "no base64": 400, "no fetcher": 501}
        described = {one["name"]: one for one in client.ask("/api/indexes").json()["indexes"]}
        assert [described[name]["texts_and_pictures"] for name in ("ours", "other")] == [True, False]
        assert client.ask("/healthz").status == 200
        monkeypatch.setattr(Encoder, "is_up", property(lambda _: False))  # as after the process's end
        assert client.ask("/healthz").status == 503
