"""A crawl of forty pictures that tests share: every plant is in it once or twice."""

import socket
from contextlib import closing
from pathlib import Path

from tests.demo.crawl import Crawl, build_crawl


def build_small_crawl(folder: Path, *, port: int = 18_080, dead_port: int = 18_081, processes: int = 1) -> Crawl:
    """Write a crawl of 40 pictures on 8 hosts in 3 WAT files."""
    return build_crawl(folder, port=port, dead_port=dead_port, images=40, hosts=8, wats=3, processes=processes)


def free_port() -> int:
    """Find a port that nobody listens on, on any loopback address."""
    with closing(socket.socket()) as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
