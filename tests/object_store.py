"""An S3 server on loopback, moto's, behind a gate that answers wrongly when it is told to.

The gate is WSGI and holds the socket, so it can also cut a connection in the middle of a body. `plan` says what happens
to a request; `asked` is what came, `keys` as whom.
"""

import logging
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

from moto.backends import get_backend
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import create_backend_app
from moto.s3.models import get_canned_acl
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "crawl"
ACCESS_KEY = re.compile(r"Credential=([^/]+)/")

Environment = Mapping[str, Any]
Answer = Callable[[Environment, Callable[..., Any]], Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """How a request goes wrong: an error of S3's, or a connection that ends in the middle of the body."""

    status: int = 0
    code: str = ""
    cut: str = ""  # "up" or "down"


SLOW_DOWN = Fault(503, "SlowDown")
INTERNAL = Fault(500, "InternalError")
EXPIRED = Fault(400, "ExpiredToken")
DENIED = Fault(403, "AccessDenied")
CUT_UP = Fault(cut="up")
CUT_DOWN = Fault(cut="down")


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str
    query: str
    range: str | None


@dataclass
class S3:
    """A server with one bucket."""

    endpoint: str = ""
    asked: list[Asked] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    plan: Callable[[Asked], Fault | None] = lambda _: None
    _app: Any = field(default_factory=lambda: create_backend_app("s3"))

    def __call__(self, environment: Environment, start: Callable[..., Any]) -> Any:
        """Answer as WSGI asks to."""
        asked = Asked(
            environment["REQUEST_METHOD"],
            environment["PATH_INFO"],
            environment.get("QUERY_STRING", ""),
            environment.get("HTTP_RANGE"),
        )
        self.asked.append(asked)
        self.keys.update(ACCESS_KEY.findall(environment.get("HTTP_AUTHORIZATION", "")))
        fault = self.plan(asked)
        if fault is None:
            return self._app(environment, start)
        match fault.cut:
            case "up":
                return self._cut_up(environment, start)
            case "down":
                return self._cut_down(environment, start)
            case _:
                return _refuse(fault, environment, start)

    def fail(self, fault: Fault, times: int | None = None, **which: str) -> None:
        """Let the next `times` (None: all) requests fail whose fields contain what `which` says."""
        left = [10**9 if times is None else times]

        def plan(asked: Asked) -> Fault | None:
            if left[0] == 0 or not all(part in (getattr(asked, name) or "") for name, part in which.items()):
                return None
            left[0] -= 1
            return fault

        self.plan = plan

    def heal(self) -> None:
        self.plan = lambda _: None

    def store(self, key: str, data: bytes) -> None:
        """Put an object that all may read, without asking over HTTP."""
        _account().put_object(BUCKET, key, data).set_acl(get_canned_acl("public-read"))

    def stored(self) -> dict[str, bytes]:
        """What lies in the bucket, by key."""
        return {key.name: bytes(key.value) for key in _account().buckets[BUCKET].keys.values()}

    def _cut_up(self, environment: Environment, start: Callable[..., Any]) -> list[bytes]:
        environment["wsgi.input"].read(2)
        environment["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        start("200 OK", [])
        return [b""]

    def _cut_down(self, environment: Environment, start: Callable[..., Any]) -> Iterator[bytes]:
        heads: list[Any] = []

        def started(*head: Any) -> Callable[[bytes], None]:
            heads.append(head)
            return lambda _: None

        body = b"".join(self._app(environment, started))
        start(*heads[0])
        yield body[: len(body) // 2]
        environment["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


def _account() -> Any:
    return get_backend("s3")[DEFAULT_ACCOUNT_ID]["aws"]


def _refuse(fault: Fault, environment: Environment, start: Callable[..., Any]) -> list[bytes]:
    length = environment.get("CONTENT_LENGTH")
    if length or environment.get("wsgi.input_terminated"):  # else there is no body, and reading would wait for one
        environment["wsgi.input"].read(int(length) if length else -1)
    body = f"<Error><Code>{fault.code}</Code><Message>no</Message></Error>".encode()
    body = b"" if environment["REQUEST_METHOD"] == "HEAD" else body
    start(f"{fault.status} No", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


@contextmanager
def serving() -> Iterator[S3]:
    """An S3 server with an empty bucket, until the block ends."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    get_backend("s3").reset()
    _account().create_bucket(BUCKET, "us-east-1")
    s3 = S3()

    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

    server = make_server("127.0.0.1", 0, s3, threaded=True, request_handler=Handler)
    s3.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield s3
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
