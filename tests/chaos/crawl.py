"""The chaos crawl: any number of WAT files, each a function of seed and number, with a planned outcome for every link.

Faults of the swarm may cost a link an attempt, but not its outcome: a transient failure (a stop in the middle of a
request is a timeout) is retried up to MAX_TRIES times. Links with a planned transient failure are on separate hosts,
because a host that keeps failing is given up for the batch with all its links.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.web import host_address
from tests.demo.wat_files import ImageTag, Page, wat_bytes

MAX_TRIES = 6
LINKS = 60  # of a WAT file
HOSTS = 24
FLAKY_HOST, ERROR_HOST, DEAD_HOST = HOSTS - 3, HOSTS - 2, HOSTS - 1
LINKS_A_PAGE = 12
REPEATED = 3  # links of a file that the next one holds too: duplicates across files

# Plant, its outcome, and its share.
PLANTS = (
    ("success", "success", 0.66),
    ("flaky", "success", 0.04),
    ("missing", "not_found", 0.12),
    ("gone", "gone", 0.05),
    ("too_small", "too_small", 0.04),
    ("not_an_image", "not_an_image", 0.04),
    ("opted_out", "opted_out", 0.03),
    ("server_error", "server_error", 0.01),
    ("dead", "connect_error", 0.01),
)
HOST_OF = {"flaky": FLAKY_HOST, "server_error": ERROR_HOST, "dead": DEAD_HOST}

SAYINGS = (
    "a green bicycle leans on the old garden wall, number {}",
    "the children are playing football on the beach, picture {}",
    "ein alter Mann sitzt auf der Bank vor seinem Haus, Bild {}",
    "una mujer camina por la calle con su perro pequeño, foto {}",
    "Kaluemi Vespett {}",
)


@dataclass(frozen=True, slots=True)
class Planted:
    url: str
    outcome: str


@dataclass(frozen=True, slots=True)
class ChaosCrawl:
    """WAT files go into `folder`; `dead_port` has no server."""

    folder: Path
    seed: int
    port: int
    dead_port: int

    def links(self, number: int) -> list[Planted]:
        """Return the links that appear first in WAT file `number`."""
        draw = random.Random(f"{self.seed}/{number}")
        found = []
        for at in range(LINKS):
            (plant, outcome, _), *_ = draw.choices(PLANTS, [share for *_, share in PLANTS])
            host = host_address(HOST_OF.get(plant, draw.randrange(FLAKY_HOST)))
            port = self.dead_port if plant == "dead" else self.port
            found.append(Planted(f"http://{host}:{port}/{plant}/{number}-{at}.jpg", outcome))
        return found

    def write(self, number: int) -> Path:
        """Write WAT file `number`."""
        links = self.links(number) + (self.links(number - 1)[:REPEATED] if number else [])
        draw = random.Random(f"{self.seed}/{number}/pages")
        draw.shuffle(links)
        pages = []
        for start in range(0, len(links), LINKS_A_PAGE):
            images = tuple(
                ImageTag(link.url, draw.choice(SAYINGS).format(draw.randrange(1000)))
                for link in links[start : start + LINKS_A_PAGE]
            )
            pages.append(Page(f"http://127.0.0.1/{number}/{start}.html", "A page", images))
        path = self.folder / f"CC-MAIN-20240517233122-20240518023122-{number:05d}.warc.wat.gz"
        path.write_bytes(wat_bytes(path.name, pages))
        return path


def recipe(model: Path) -> dict[str, object]:
    """Return a recipe that keeps pictures as received and publishes every scored one, so that each can be counted."""
    entry = {"model": "demo", "pretrained": str(model), "threshold": -1.0}
    return {
        "image": {"resize_mode": "no", "reencode": False, "min_bytes": 300},
        "models": {"en": entry, "other": entry},
        "safety": {"prompts": None},  # the demo's model knows none of the built-in words
    }
