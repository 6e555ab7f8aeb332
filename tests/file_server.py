"""A web server on loopback that serves files, whole or in parts, and cuts responses off or refuses when told to."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class FileServer:
    files: dict[str, bytes] = field(default_factory=dict)
    """By path."""
    plan: list[int] = field(default_factory=list)
    """What happens to the next requests: a status, or the number of bytes after which the connection ends."""
    etags: list[str] = field(default_factory=list)
    """Of the next answers; then "one"."""
    headers: dict[str, str] = field(default_factory=dict)
    gives_parts: bool = True
    says_size: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path and Range."""
    url: str = ""

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, asked = unquote(urlsplit(request.path).path), request.headers["Range"]
        self.asked.append((path, asked))
        step = self.plan.pop(0) if self.plan else 10**12
        if path not in self.files or 400 <= step < 600:
            request.send_error(404 if path not in self.files else step)
            return
        data, part = self.files[path], RANGE.match(asked or "") if self.gives_parts else None
        start = int(part[1]) if part else 0
        stop = min(int(part[2]) + 1, len(data)) if part and part[2] else len(data)
        if part and start >= len(data):
            request.send_error(416)
            return
        request.send_response(206 if part else 200)
        request.send_header("ETag", self.etags.pop(0) if self.etags else '"one"')
        if part:
            request.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        if self.says_size:
            request.send_header("Content-Length", str(stop - start))
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data[start : min(stop, start + step)])


@contextmanager
def serving_files(**files: bytes) -> Iterator[FileServer]:
    served = FileServer({f"/{name}": data for name, data in files.items()})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
