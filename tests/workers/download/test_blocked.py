"""A picture on a hash list ends as blocked, without bytes, picture or hash anywhere."""

import hashlib
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from dataset.pictures.picture import Picture
from dataset.pictures.prepare import prepare
from dataset.recipe.image_rules import ImageRules
from dataset.safety.hash_lists import HashListError, HashLists
from dataset.store.store import Store
from tests.workers.download.test_batch import Planted, download
from tests.workers.fetching.odd_web import answer, odd_web, picture, response, run
from tracker.storage.hash_lists import pack
from workers.download.decoder_pool import Decoders
from workers.download.stage import Download
from workers.fetching.policy import FetchPolicy
from workers.runtime.context import WorkContext

BAD, GOOD = picture(seed=1), picture(seed=2)
HANDLERS = {"/bad": answer(response(BAD)), "/good": answer(response(GOOD))}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path))


@pytest.mark.parametrize("kind", ["sha256", "md5"])
@pytest.mark.parametrize("reencode", [True, False])
def test_a_picture_on_a_hash_list_leaves_no_trace(store: Store, tmp_path: Path, kind: str, reencode: bool) -> None:
    digest = hashlib.new(kind, BAD).hexdigest()
    store.put("restricted/a", pack([(kind, digest)])[0])
    rules = ImageRules.from_json({"reencode": reencode, "resize_mode": "no"})

    async def test() -> None:
        async with odd_web(HANDLERS) as web:
            links = [Planted(0, web.url("/bad"), extra='{"text_de": "ein Stern"}'), Planted(1, web.url("/good"))]
            restricted = HashLists.load(store, "restricted/a")
            extra = {"text_de": "string"}
            outcome = await download(links, web, store, rules=rules, restricted=restricted, extra=extra)
        assert outcome.finished == {"blocked": 1, "success": 1}
        blocked, kept = store.read_table("shards/3-lease.parquet").to_pylist()
        assert (blocked["outcome"], kept["outcome"]) == ("blocked", "success")
        assert {name: value for name, value in blocked.items() if value not in (None, "")} == {
            "key": "000000000300000",
            "status": "failed_to_download",
            "outcome": "blocked",
            "final": True,
            "attempt": 1,
            "subset": "en",
            "pack": 7,
            "pack_row": 0,
        }
        assert b"ein Stern" not in (tmp_path / "shards/3-lease.parquet").read_bytes()
        assert kept["md5"] == hashlib.md5(GOOD).hexdigest()
        tar = (tmp_path / "shards/3-lease.tar").read_bytes()
        assert BAD not in tar
        made = prepare(BAD, rules)
        assert isinstance(made, Picture)
        assert made.data not in tar
        for digest in (made.sha256, str(made.md5)):
            assert digest.encode() not in tar + (tmp_path / "shards/3-lease.parquet").read_bytes()

    run(test)


class Lists:
    """Stands in for a session with these hash lists."""

    kind = "filter"

    def __init__(self) -> None:
        self.lists: dict[str, str] = {}

    def hash_lists(self) -> dict[str, str]:
        return self.lists


def test_hash_lists_are_read_before_each_batch(store: Store) -> None:
    session = Lists()
    stage = Download(FetchPolicy(), Decoders())

    async def known() -> HashLists:
        return stage.hash_lists.current(WorkContext(session, store))  # type: ignore[arg-type]

    digest = hashlib.sha256(BAD).hexdigest()
    assert not trio.run(known).matches(sha256=digest)
    data, _ = pack([("sha256", digest)])
    path = f"restricted/{uuid4().hex}"
    store.put(path, data)
    session.lists = {path: hashlib.sha256(data).hexdigest()}
    assert trio.run(known).matches(sha256=digest)
    assert trio.run(known) is trio.run(known)
    session.lists = {path: "0" * 64}
    for _ in range(2):
        with pytest.raises(HashListError):
            trio.run(known)
    session.lists = {}
    assert not trio.run(known).matches(sha256=digest)
