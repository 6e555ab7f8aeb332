"""The mini crawl: WAT files and a web of loopback addresses, with every fault that the swarm must handle.

`build_crawl` writes it into a folder:

    wats/*.warc.wat.gz  wats/wat.paths.gz    what extract reads
    web/routes.json     web/files/           what tests.demo.web serves
    expected.json                            every link, its plant, and what has to become of it

It is a pure function of its arguments. Links carry the web's port in their URL, so another port is another crawl.

    python -m tests.demo.crawl FOLDER --port P [--images N] [--domain crawl.test --hosts N]
"""

import argparse
import gzip
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tests.demo.pages import bind_pages
from tests.demo.painting import bomb_bytes, html_bytes, paint
from tests.demo.planting import BOMB_FILE, HTML_FILE, Link, Planner
from tests.demo.plants import COUNTS, FATES, MISMATCHED_SHARE, NAME_SHARE, Pair, Plant
from tests.demo.wat_files import wat_bytes
from tests.demo.web import save_routes

EXPECTED = "expected.json"
FULL_IMAGES = 2_200  # what COUNTS is meant for; a smaller crawl has fewer of each plant, but of each at least one


@dataclass(frozen=True, slots=True)
class Crawl:
    """A crawl that lies on disk. `allow_ports` are the live port and the dead one."""

    folder: Path
    wats: tuple[Path, ...]
    listing: Path
    web: Path
    hosts: tuple[str, ...]
    allow_ports: tuple[int, int]
    links: tuple[Link, ...]


def build_crawl(
    folder: Path,
    *,
    port: int,
    dead_port: int | None = None,
    seed: int = 1,
    images: int = FULL_IMAGES,
    hosts: int = 60,
    domain: str | None = None,
    wats: int = 8,
    processes: int | None = None,
) -> Crawl:
    """Write a crawl with `images` sound pictures; nobody may listen on `dead_port` (None: the port after `port`).

    Its hosts are loopback addresses, or with a `domain` names in it, which a web in a network of containers answers to.
    """
    rng = np.random.default_rng(seed)
    web = folder / "web"
    (web / "files").mkdir(parents=True)
    places = _names(hosts, domain) if domain else _addresses(hosts, rng)
    planner = Planner(places, port, port + 1 if dead_port is None else dead_port, rng)
    links = tuple(planner.plan(plant) for plant in list_plants(images, rng))
    paint(web, planner.orders, processes or os.cpu_count() or 1)
    (web / BOMB_FILE).write_bytes(bomb_bytes())
    (web / HTML_FILE).write_bytes(html_bytes())
    save_routes(web, planner.hosts, planner.routes)
    paths = tuple(_write_wats(folder / "wats", _dealt(links, wats), rng))
    listing = folder / "wats" / "wat.paths.gz"
    listing.write_bytes(gzip.compress("".join(f"{path}\n" for path in paths).encode(), mtime=0))
    (folder / EXPECTED).write_text(json.dumps([asdict(link) for link in links], indent=1), encoding="utf-8")
    return Crawl(folder, paths, listing, web, planner.hosts, (port, planner.dead_port), links)


def read_expected(folder: Path) -> list[Link]:
    """Read the links of the crawl in `folder`."""
    rows = json.loads((folder / EXPECTED).read_text(encoding="utf-8"))
    return [Link(**row | {"plant": Plant(row["plant"]), "pair": row["pair"] and Pair(row["pair"])}) for row in rows]


def _addresses(hosts: int, rng: np.random.Generator) -> list[str]:
    """Draw addresses of 127.0.0.0/8, all different."""
    return [f"127.{10 + host // 8}.{rng.integers(256)}.{1 + host % 8 * 31}" for host in range(hosts)]


def _names(hosts: int, domain: str) -> list[str]:
    return [f"h{host:02d}.{domain}" for host in range(hosts)]


def list_plants(images: int, rng: np.random.Generator) -> list[Plant]:
    """List the plant of every link, shuffled; those that end as a sound picture are `images` together."""
    scale = min(1.0, images / FULL_IMAGES)
    counts = {plant: max(1, round(count * scale)) for plant, count in COUNTS.items()}
    left = images - sum(count for plant, count in counts.items() if FATES[plant].outcome == "success")
    counts[Plant.MISMATCHED] = round(left * MISMATCHED_SHARE)
    counts[Plant.NAME] = max(1, round(left * NAME_SHARE))
    counts[Plant.MATCHED] = left - counts[Plant.MISMATCHED] - counts[Plant.NAME]
    plants = [plant for plant, count in counts.items() for _ in range(count)]
    return [plants[place] for place in rng.permutation(len(plants))]


def _dealt(links: Sequence[Link], wats: int) -> list[list[Link]]:
    """Deal the links to WAT files in turn, duplicates twice: to the same file, or to the next one too."""
    files: list[list[Link]] = [[] for _ in range(wats)]
    for turn, link in enumerate(links):
        files[turn % wats].append(link)
        if link.plant is Plant.DUPLICATE_WITHIN:
            files[turn % wats].append(link)
        if link.plant is Plant.DUPLICATE_ACROSS:
            files[(turn + 1) % wats].append(link)
    return files


def _write_wats(folder: Path, files: Sequence[Sequence[Link]], rng: np.random.Generator) -> Iterator[Path]:
    """Write the WAT files: the first has a broken record in it, the last is cut short. Neither costs a link."""
    folder.mkdir()
    for number, links in enumerate(files):
        path = folder / f"CC-MAIN-20240517233122-20240518023122-{number:05d}.warc.wat.gz"
        broken_after = 2 if number == 0 else None
        pages = bind_pages(links, number, rng)
        path.write_bytes(wat_bytes(path.name, pages, broken_after=broken_after, cut_short=number == len(files) - 1))
        yield path


def main() -> None:
    """Write a crawl from the command line."""
    parser = argparse.ArgumentParser(prog="tests.demo.crawl", description="Write the mini crawl into a new folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True, help="of its web; the next port has to stay closed")
    parser.add_argument("--images", type=int, default=FULL_IMAGES, help="sound pictures (%(default)s)")
    parser.add_argument("--hosts", type=int, default=60, help="%(default)s")
    parser.add_argument("--domain", help="of the hosts' names; default: they are loopback addresses")
    arguments = parser.parse_args()
    crawl = build_crawl(
        arguments.folder,
        port=arguments.port,
        images=arguments.images,
        hosts=arguments.hosts,
        domain=arguments.domain,
    )
    print(f"{len(crawl.links)} links, {len(crawl.hosts)} hosts, {len(crawl.wats)} WAT files")


if __name__ == "__main__":
    main()
