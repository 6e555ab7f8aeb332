"""Plan the mini crawl's links one by one: the caption, the response of the web, and the outcome that each must have."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tests.demo.marks import UNMARKED
from tests.demo.painting import Order, copy_order, cut_order, draw_order, small_order
from tests.demo.pictures import LANGUAGES, Colour, Scene, caption, mismatched_scene, random_scene
from tests.demo.plants import FATES, NAMES, Pair, Plant
from tests.demo.web import Behaviour, Route

FOLDERS = ("img", "media/2023", "wp-content/uploads/2021/05", "static/photos", "assets/a~b")
SHORT_ALTS = ("logo", "Bild", " foto\n", "1234", "a&amp;b", "&nbsp;dog&nbsp;", "", "...", "xx")
LANGUAGE_SHARES = (0.54, 0.23, 0.23)  # of LANGUAGES
LINK_LOCAL = "http://169.254.169.254/latest/meta-data/picture.jpg"  # where clouds keep a machine's credentials
BOMB_FILE, HTML_FILE = "files/bomb.png", "files/page.html"
COPIES = (  # of a picture; the last is a chain of edits
    (), ("smaller",), ("packed",), ("squeezed",), ("blurred", "larger"), ("packed", "smaller", "packed", "larger"),
)  # fmt: skip
TEMPLATES = 4  # pictures that differ in their colour alone
TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "gif": "image/gif"}


@dataclass(frozen=True, slots=True)
class Link:
    """A link of the crawl and what has to become of it.

    `url` is absolute; `caption` is the text after cleaning. `outcome` None: never a candidate. `language` is the one
    that the caption is written in, None for a name. `pair` says what the filter should make of a fetched picture.
    `copies` is a number that all copies of a picture have.
    """

    number: int
    plant: Plant
    host: str
    url: str
    caption: str
    language: str | None
    outcome: str | None
    pair: Pair | None
    copies: int | None = None


class Planner:
    """Plans links, and gathers the routes and the orders for pictures that they need. The last host never answers."""

    def __init__(self, hosts: Sequence[str], port: int, dead_port: int, rng: np.random.Generator) -> None:
        self.hosts = tuple(hosts)
        self.port = port
        self.dead_port = dead_port
        self.rng = rng
        self.orders: list[Order] = []
        self.routes: dict[str, Route] = {}
        self._planned = 0
        self._of: Counter[Plant] = Counter()
        self._scenes: dict[tuple[Plant, int], Scene] = {}

    def plan(self, plant: Plant) -> Link:
        """Plan the next link."""
        number, self._planned = self._planned, self._planned + 1
        at, self._of[plant] = self._of[plant], self._of[plant] + 1
        scene = self._scene(plant, at)
        host = self.hosts[-1] if plant is Plant.SILENT_HOST else self._any_host()
        path = f"/{FOLDERS[number % len(FOLDERS)]}/{scene.colour}-{scene.shape}-{number:05d}"
        if plant in (Plant.COPY, Plant.TEMPLATE):
            path += UNMARKED
            url = self._painted(_one_of_several(plant, at, number, scene), host + path)
        else:
            url = self._answered(plant, number, scene, host + path)
        text, language = self._said(plant, number, scene)
        fate = FATES[plant]
        copies = at // len(COPIES) if plant is Plant.COPY else None
        return Link(number, plant, host, url, text, language, fate.outcome, fate.pair, copies)

    def _scene(self, plant: Plant, at: int) -> Scene:
        """Draw a scene; copies of a picture share theirs, templates all of it but the colour."""
        drawn = random_scene(self.rng)
        match plant:
            case Plant.COPY:
                return self._scenes.setdefault((plant, at // len(COPIES)), drawn)
            case Plant.TEMPLATE:
                first = self._scenes.setdefault((plant, at // TEMPLATES), drawn)
                return replace(first, colour=list(Colour)[(list(Colour).index(first.colour) + at) % len(Colour)])
            case _:
                return drawn

    def _any_host(self) -> str:
        return self.hosts[self.rng.integers(len(self.hosts) - 1)]

    def _said(self, plant: Plant, number: int, scene: Scene) -> tuple[str, str | None]:
        """Choose the caption and the language it is in."""
        language = str(self.rng.choice(LANGUAGES, p=LANGUAGE_SHARES))
        match plant:
            case Plant.NAME:
                return NAMES[number % len(NAMES)], None
            case Plant.ALT_TOO_SHORT:
                return SHORT_ALTS[number % len(SHORT_ALTS)], None
            case Plant.MISMATCHED:
                return caption(mismatched_scene(scene, self.rng), language, number), language
            case _:
                return caption(scene, language, number), language

    def _answered(self, plant: Plant, number: int, scene: Scene, place: str) -> str:
        """Add what the web needs for the link at `place` ('host/path' without its ending), and return its URL."""
        bare = _bare_route(plant, number)
        if bare is not None:
            return self._routed(place + ".jpg", bare)
        match plant:
            case Plant.ALT_TOO_SHORT:
                return self._url(place + ".jpg")
            case Plant.NOT_HTTP:
                return f"data:image/gif;base64,R0lGODlhAQABAAAAACw={number}"
            case Plant.DEAD_PORT:
                return self._url(place + ".jpg", self.dead_port)
            case Plant.REDIRECT:
                return self._redirected(number, scene, place)
            case Plant.REDIRECT_LOOP:
                self._routed(place + "-again.jpg", _redirect(self._url(place + ".jpg")))
                return self._routed(place + ".jpg", _redirect(self._url(place + "-again.jpg")))
            case Plant.SMALL_IMAGE:
                return self._painted(small_order(number, scene), place)
            case Plant.TRUNCATED_JPEG:
                return self._painted(cut_order(number, scene), place)
            case _:
                return self._painted(draw_order(number, scene, self.rng), place, plant)

    def _painted(self, order: Order, place: str, plant: Plant = Plant.MATCHED) -> str:
        """Order a picture and route the link to it, with the plant's way of serving it."""
        self.orders.append(order)
        behaviour = {
            Plant.SLOW_BODY: Behaviour.SLOW,
            Plant.ENDLESS_BODY: Behaviour.ENDLESS,
            Plant.WRONG_LENGTH: Behaviour.SHORT,
        }.get(plant, Behaviour.FILE)
        suffix = order.file.rsplit(".", 1)[1]
        headers = {"Content-Type": TYPES[suffix]}
        if plant is Plant.OPT_OUT:
            headers["X-Robots-Tag"] = "noai, noimageai"
        return self._routed(f"{place}.{suffix}", Route(behaviour, order.file, headers=headers))

    def _redirected(self, number: int, scene: Scene, place: str) -> str:
        """Route a link over another host, whose own redirect is relative, to a picture there."""
        path = place.partition("/")[2]
        elsewhere = self._any_host()
        picture = self._painted(draw_order(number, scene, self.rng), f"{elsewhere}/moved/{path}")
        self._routed(f"{elsewhere}/hop/{path}", _redirect("/" + picture.split("/", 3)[3]))
        return self._routed(f"{place}.jpg", _redirect(self._url(f"{elsewhere}/hop/{path}")))

    def _routed(self, place: str, route: Route) -> str:
        self.routes[place] = route
        return self._url(place)

    def _url(self, place: str, port: int | None = None) -> str:
        host, _, path = place.partition("/")
        return f"http://{host}:{self.port if port is None else port}/{path}"


def _one_of_several(plant: Plant, at: int, number: int, scene: Scene) -> Order:
    if plant is Plant.COPY:
        return copy_order(number, scene, COPIES[at % len(COPIES)], 10**6 + at // len(COPIES))
    return copy_order(number, scene, (), 2 * 10**6 + at // TEMPLATES)


def _bare_route(plant: Plant, number: int) -> Route | None:
    """Return the single answer of a plant without its own pictures; None for other plants."""
    jpeg, html = {"Content-Type": "image/jpeg"}, {"Content-Type": "text/html; charset=utf-8"}
    return {
        Plant.NOT_FOUND: Route(status=404),
        Plant.GONE: Route(status=410),
        Plant.SERVER_ERROR: Route(status=500),
        Plant.SILENT_HOST: Route(Behaviour.SILENT),
        Plant.REDIRECT_LINK_LOCAL: _redirect(LINK_LOCAL),
        Plant.HTML_AS_JPEG: Route(file=HTML_FILE, headers=html if number % 2 else jpeg),
        Plant.DECOMPRESSION_BOMB: Route(file=BOMB_FILE, headers={"Content-Type": "image/png"}),
        Plant.ENDLESS_GZIP: Route(Behaviour.INFLATING, headers=jpeg),
    }.get(plant)


def _redirect(location: str) -> Route:
    return Route(status=302, headers={"Location": location})
