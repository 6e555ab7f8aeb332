"""Fixtures: the small crawl and its web for all tests, and a swarm for each."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.demo.crawl import Crawl
from tests.demo.small_crawl import build_small_crawl, free_port
from tests.swarm.checkpoints import Checkpoint, Checkpoints
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


@pytest.fixture(scope="session")
def checkpoints(
    server: str, template: str, crawl: Crawl, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Checkpoints]:
    made = Checkpoints(server, template, tmp_path_factory.mktemp("checkpoints"), crawl, demo_recipe(MODEL))
    yield made
    made.close()


@pytest.fixture
def done() -> str | None:
    """The last stage that is finished when the test begins, for `parametrize`; None for a swarm that is only seeded."""
    return None


@pytest.fixture
def checkpoint(checkpoints: Checkpoints, done: str | None) -> Checkpoint | None:
    return None if done is None else checkpoints.after(done)


@pytest.fixture
def database(make_database: Callable[..., str], checkpoint: Checkpoint | None) -> str:
    """The URL of a database of the test's own."""
    return make_database() if checkpoint is None else make_database(checkpoint.database)


@pytest.fixture
def swarm(database: str, crawl: Crawl, checkpoint: Checkpoint | None, tmp_path: Path) -> Iterator[Swarm]:
    """A swarm without workers, seeded and finished up to the stage `done`."""
    made = Swarm(database, tmp_path, crawl, demo_recipe(MODEL))
    if checkpoint is None:
        made.seed()
    else:
        shutil.copytree(checkpoint.store, made.store)
    yield made
    made.close()
