"""Whatever a codec does, the worker continues, and each picture has its outcome."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from dataset.pictures.outcomes import Outcome
from dataset.pictures.picture import Picture
from dataset.pictures.prepare import prepare
from dataset.recipe.image_rules import ImageRules, ResizeMode
from dataset.store.store import Store
from tests.workers.download.odd_codec import HERE
from tests.workers.download.test_batch import Planted, download
from tests.workers.fetching.odd_web import answer, odd_web, picture, response, run
from workers.download.decoder_pool import Decoders, DecodingFailed, Undecoded

RULES = ImageRules()

DEADLY = {
    b"!crash": "codec crashed",
    b"!abort": "codec crashed",
    b"!raise": "codec crashed",
    b"!lie": "codec crashed",
    b"!hang": "codec took too long",
    b"!eat": "codec took too much memory",
    b"!eaten": "codec took too much memory",
}


def odd_decoders(limit: int = 2) -> Decoders:
    return Decoders(limit=limit, seconds=1.0, max_bytes=1 << 30, codec=HERE)


def pids(prepared: Picture | Undecoded) -> tuple[int, int]:
    """Return the process ids of the decoder and of the fork server."""
    assert isinstance(prepared, Picture), prepared
    decoder, origin = map(int, prepared.sha256.split())
    return decoder, origin


def await_end(pid: int) -> None:
    """Wait until a process is gone."""
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([watch], [], [], 10.0)[0], f"process {pid} lives on"
    finally:
        os.close(watch)


@pytest.mark.parametrize(("order", "reason"), DEADLY.items())
def test_a_picture_that_ends_its_codec_is_undecodable_and_the_next_one_is_decoded(order: bytes, reason: str) -> None:
    async def test() -> None:
        with odd_decoders(limit=1) as decoders:
            assert await decoders.prepare(order, RULES) == Undecoded(Outcome.UNDECODABLE, reason)
            assert isinstance(await decoders.prepare(b"", RULES), Picture)

    run(test)


def test_of_many_concurrent_pictures_only_the_deadly_ones_are_lost(store: Store) -> None:
    async def test() -> None:
        base = picture(200, 200)
        orders = [b"", b"!crash", b"", b"!hang", b"", b"!eat", b"!abort", b"", b"", b"!damaged", b"", b"!crash"]
        handlers = {f"/{n}": answer(response(base + order)) for n, order in enumerate(orders)}
        async with odd_web(handlers) as web:
            links = [Planted(n, web.url(path)) for n, path in enumerate(handlers)]
            with odd_decoders() as decoders:
                outcome = await download(links, web, store, decoders=decoders, timeout_seconds=20.0)
        assert outcome.finished == {Outcome.SUCCESS: 6, Outcome.UNDECODABLE: 6}
        rows = store.read_table("shards/3-lease.parquet").to_pylist()
        wanted = [None if not order else DEADLY.get(order, "undecodable") for order in orders]
        assert [row["error_message"] for row in rows] == wanted

    run(test)


def test_a_large_picture_and_its_rules_are_sent_completely() -> None:
    async def test() -> None:
        data = os.urandom(5 << 20)
        with odd_decoders() as decoders:
            prepared = await decoders.prepare(data, ImageRules(size=77))
            assert isinstance(prepared, Picture)
            assert (prepared.data, prepared.width) == (data, 77)
            changed = await decoders.prepare(data, ImageRules(size=78))
            assert isinstance(changed, Picture)
            assert changed.width == 78

    run(test)


def test_a_picture_is_the_same_as_without_isolation() -> None:
    async def test() -> None:
        with Decoders(limit=1) as decoders:
            for data in (picture(600, 400), b"no picture", picture(600, 400)[:-9_000]):
                isolated, alone = await decoders.prepare(data, RULES), prepare(data, RULES)
                assert isolated == (alone if isinstance(alone, Picture) else Undecoded(alone))

    run(test)


@pytest.mark.parametrize("whom", ["decoder", "origin"])
def test_an_idle_decoder_that_is_killed_is_replaced_and_costs_no_picture(whom: str) -> None:
    async def test() -> None:
        with odd_decoders(limit=1) as decoders:
            decoder, origin = pids(await decoders.prepare(b"", RULES))
            os.kill(decoder if whom == "decoder" else origin, signal.SIGKILL)
            await_end(decoder)
            again, _ = pids(await decoders.prepare(b"", RULES))
            assert again != decoder

    run(test)


def test_a_cancelled_picture_frees_its_decoder() -> None:
    async def test() -> None:
        with odd_decoders(limit=1) as decoders:
            await decoders.prepare(b"", RULES)
            with trio.move_on_after(0.05) as scope:
                await decoders.prepare(b"!hang", RULES)
            assert scope.cancelled_caught
            assert isinstance(await decoders.prepare(b"", RULES), Picture)

    run(test)


def test_closing_leaves_no_process_behind() -> None:
    async def test() -> None:
        with odd_decoders() as decoders:
            decoder, origin = pids(await decoders.prepare(b"", RULES))
        await_end(decoder)
        await_end(origin)

    run(test)


def test_a_worker_that_is_killed_leaves_no_process_behind_even_in_the_middle_of_a_picture() -> None:
    program = f"""
from dataset.recipe.image_rules import ImageRules
from workers.download.decoder_pool import Decoders
import trio

async def main():
    decoders = Decoders(limit=1, codec={HERE!r})
    print((await decoders.prepare(b"", ImageRules())).sha256, flush=True)
    await decoders.prepare(b"!hang", ImageRules())

trio.run(main)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        decoder, origin = map(int, worker.stdout.readline().split())
        worker.kill()
    await_end(origin)
    await_end(decoder)


def test_a_codec_sees_neither_the_trackers_url_nor_the_stores_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    async def test() -> None:
        with odd_decoders(limit=1) as decoders:
            prepared = await decoders.prepare(b"!environment", RULES)
            assert isinstance(prepared, Picture)
            assert b"PATH" in prepared.data.split()
            assert not {b"SHOAL_DATABASE_URL", b"AWS_SECRET_ACCESS_KEY"} & set(prepared.data.split())

    run(test)


@pytest.mark.parametrize("codec", ["tests.workers.no_such_codec:prepare", "tests.workers.download.odd_codec:missing"])
def test_a_decoder_that_cannot_start_is_an_error_of_one_sentence(codec: str, capfd: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        with Decoders(codec=codec) as decoders, pytest.raises(DecodingFailed, match=r"^[^\n]+\.$"):
            await decoders.prepare(b"", RULES)

    run(test)


def test_a_picture_kept_as_received_needs_no_decoder(store: Store) -> None:
    async def test() -> None:
        async with odd_web({"*": answer(response(picture(300, 200) + b"!crash"))}) as web:
            with odd_decoders() as decoders:
                rules = ImageRules(resize_mode=ResizeMode.NO, reencode=False)
                outcome = await download([Planted(0, web.url("/"))], web, store, rules=rules, decoders=decoders)
        assert outcome.finished == {Outcome.SUCCESS: 1}

    run(test)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))
