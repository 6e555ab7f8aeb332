"""Fixtures: the small crawl and its web for all tests, and a swarm for each."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.demo.crawl import Crawl
from tests.demo.small_crawl import build_small_crawl, free_port
from tests.swarm.swarm import Swarm, demo_recipe

MODEL = Path(__file__).parents[1] / "demo" / "clip"


@pytest.fixture(scope="session")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crawl]:
    """The small crawl, served."""
    folder = tmp_path_factory.mktemp("crawl") / "crawl"
    port = free_port()
    built = build_small_crawl(folder, port=port, dead_port=free_port())
    web = subprocess.Popen(
        [sys.executable, "-m", "tests.demo.web", str(built.web), "--port", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert web.stdout is not None
    assert web.stdin is not None
    assert web.stdout.readline()
    yield built
    web.stdin.close()
    web.stdout.close()
    web.wait(30)


@pytest.fixture
def swarm(database: str, crawl: Crawl, tmp_path: Path) -> Iterator[Swarm]:
    """A seeded swarm without workers."""
    made = Swarm(database, tmp_path, crawl, demo_recipe(MODEL))
    made.seed()
    yield made
    made.close()
