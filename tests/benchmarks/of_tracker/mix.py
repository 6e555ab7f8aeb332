"""Measure how mixed a batch is: its hosts, and the most links of one host, compared with an ideal random draw.

Packs clump as a crawl's do: a WAT file holds pages, a page's images are mostly of one host, and the hosts' sizes fall
with their rank to the power of 0.9, which gives the largest of 400,000 some 4 % of all images. One pool is filled in
ingest's order (20 packs shuffled together), another as the packs stand.

The effective sample size of a batch of n is n / deff, where deff is how many times more the share of a random half of
all hosts varies between batches than it would between ideal ones (Kish 1965): 10,000 links of 250 pages with neighbours
of one host tell less than 10,000 links drawn one by one.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dataset.ingest.shuffle import number_rows, shuffled_rows
from tests.benchmarks.of_tracker.figures import tell
from tests.benchmarks.of_tracker.filling import book
from tests.benchmarks.of_tracker.server import Server
from tests.copy_buffer import copy_buffer
from tests.tracker.filling import new_run, set_setting
from tracker.database.database import Connection, connect
from tracker.protocol.copy_rows import copy_into
from tracker.protocol.payload import read_payload
from tracker.protocol.session import Session

BATCH = 10_000
PACKS_TOGETHER = 20
PACK_ROWS = 25_000
IMAGES_OF_A_PAGE = 12  # the mean; geometric
HOSTS = 400_000
HALVES = 256  # random halves of the hosts that deff is averaged over

SHARE_UP_TO = np.cumsum(np.arange(1, HOSTS + 1) ** -0.9)
SHARE_UP_TO /= SHARE_UP_TO[-1]

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Mix:
    """Means over the batches of one way to draw."""

    hosts: float
    most_of_one: float
    effective_n: float


def measure_mix(server: Server, packs: int, draws: int) -> dict[str, Mix]:
    """Fill two pools with the same packs, shuffled and as they stand -> the mix of each, and of an ideal draw."""
    rng = np.random.default_rng(1)
    made = [_pack(rng, pack) for pack in range(packs)]
    hosts_of_pool = np.concatenate([_host_ids(pack["url"].to_pylist()) for pack in made])
    found = {}
    with connect(server.url) as admin:
        set_setting(admin, "batch_size", BATCH)
        set_setting(admin, "lease_seconds", 3600)
        for name, groups in (("shuffled", _shuffled(made)), ("as the packs stand", made)):
            _fill(admin, f"mix-{name[:2]}", groups)
            found[name] = _mix(_drawn(server, draws))
            tell(name, found[name])
            admin.execute("TRUNCATE tracker.candidate, tracker.ledger, tracker.counter")
    found["ideal"] = _mix([rng.choice(hosts_of_pool, BATCH, replace=False) for _ in range(draws)])
    return found


def _pack(rng: np.random.Generator, pack: int) -> pa.Table:
    """A WAT file's candidates: pages one after the other, each with its images; 15 % of these of another host."""
    pages = rng.geometric(1 / IMAGES_OF_A_PAGE, 2 * PACK_ROWS // IMAGES_OF_A_PAGE)
    own = np.repeat(_hosts(rng, len(pages)), pages)[:PACK_ROWS]
    other = _hosts(rng, len(own))
    hosts = np.where(rng.random(len(own)) < 0.15, other, own)
    table = pa.table(
        {
            "url": [f"https://host-{host}.example/{pack}/{row}.jpg" for row, host in enumerate(hosts)],
            "text": [f"a caption of some length, number {row}" for row in range(len(hosts))],
            "language": ["en"] * len(hosts),
            "subset": ["en"] * len(hosts),
        }
    )
    return number_rows(table, pack)


def _hosts(rng: np.random.Generator, n: int) -> Ids:
    return np.searchsorted(SHARE_UP_TO, rng.random(n))


def _shuffled(packs: list[pa.Table]) -> list[pa.Table]:
    groups = [packs[at : at + PACKS_TOGETHER] for at in range(0, len(packs), PACKS_TOGETHER)]
    return [
        shuffled_rows(group, [np.ones(len(pack), np.bool_) for pack in group], seed=seed).subset("en")
        for seed, group in enumerate(groups)
    ]


def _fill(admin: Connection, run: str, groups: list[pa.Table]) -> None:
    run_id = new_run(admin, run)
    row = admin.execute(
        "SELECT leaf, relation FROM tracker.leaf WHERE subset = 'en' AND run_id = %s", (run_id,)
    ).fetchone()
    assert row is not None
    for group in groups:
        buffer = copy_buffer(group, leaf=row["leaf"], run_id=run_id, subset="en")
        with admin.transaction():
            copy_into(admin, row["relation"], buffer)
    book(admin, run_id, row["leaf"], sum(map(len, groups)))


def _drawn(server: Server, draws: int) -> list[Ids]:
    worker = Session.register(server.url, "download")
    batches = []
    for _ in range(draws):
        batch = worker.draw()
        assert batch is not None
        batches.append(_host_ids([link.url for link in read_payload(batch.payload)]))
    worker.close()
    return batches


def _mix(batches: list[Ids]) -> Mix:
    counts = [Counter(batch.tolist()) for batch in batches]
    return Mix(
        hosts=float(np.mean([len(count) for count in counts])),
        most_of_one=float(np.mean([max(count.values()) for count in counts])),
        effective_n=BATCH / _design_effect(batches),
    )


def _design_effect(batches: list[Ids]) -> float:
    """Variance between batches of a random half's share, over that of independent draws p (1 - p) / n."""
    every = np.concatenate(batches)
    effects = []
    for seed in range(HALVES):
        half = _in_half(every, seed)
        p = half.mean()
        shares = [_in_half(batch, seed).mean() for batch in batches]
        expected = np.mean([p * (1 - p) / len(batch) for batch in batches])
        effects.append(np.var(shares, ddof=1) / expected)
    return float(np.mean(effects))


def _in_half(hosts: Ids, seed: int) -> npt.NDArray[np.bool_]:
    """Whether each host is in the half that `seed` names (a multiplicative hash; Knuth 6.4)."""
    mixed = (hosts.astype(np.uint64) + np.uint64(seed * 1_000_003 + 1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    return (mixed * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(63)).astype(np.bool_)


def _host_ids(urls: list[str]) -> Ids:
    return np.array([int(url.split("/", 3)[2].split(".")[0].removeprefix("host-")) for url in urls], np.int64)
