"""Indexes of some hundred rows are built and searched in one thread: two would wait for each other at every step."""

from collections.abc import Iterator

import faiss
import pytest

from dataset.index.lookup import set_threads


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    set_threads(1)
    yield
    set_threads(before)
