"""Reading a response does not change the link's deadline."""

import socket

import pytest
import trio

from tests.workers.fetching.odd_web import run
from workers.fetching.body import MemoryBudget
from workers.fetching.connection import Connection, PlainByteStream
from workers.fetching.policy import FetchPolicy
from workers.fetching.response import RequestContext, ResponseReader, StaleConnectionError


def test_a_stale_connection_does_not_shorten_the_links_deadline() -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        connection = Connection(PlainByteStream(ours), ours)
        connection.begin()  # an earlier request
        with trio.fail_after(3_600) as scope, MemoryBudget(1).share() as share:
            context = RequestContext(share, scope, lambda _reply: True, lambda _start: True)
            deadline = scope.deadline
            reader = ResponseReader(connection, FetchPolicy(first_byte_seconds=1.0), context)
            theirs.close()
            with pytest.raises(StaleConnectionError):
                await reader.read()
            assert scope.deadline == deadline
        connection.close()

    run(test)
