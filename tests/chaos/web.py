"""The web of the chaos crawl: the path of a link names its response, so that the crawl can grow during the run.

    http://127.x.y.z:PORT/<plant>/<anything>.jpg

    python -m tests.chaos.web --port P --hosts N

listens on N addresses of 127.0.0.0/8, prints a line when it is ready, and ends when its standard input closes.
"""

import argparse
import asyncio
import io
import sys
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from PIL import Image

from tests.demo.web import BadRequestError, read_request, response_head, stop_when_stdin_closes

PICTURES = 16
TINY = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)  # a PNG of one pixel


def host_address(number: int) -> str:
    return f"127.{40 + number // 200}.7.{1 + number % 200}"


def pictures() -> list[bytes]:
    """Return small valid JPEGs of 1 to 3 KB."""
    rng = np.random.default_rng(7)
    made = []
    for _ in range(PICTURES):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(file, "JPEG", quality=60)
        made.append(file.getvalue())
    return made


class Web:
    """`asked` counts requests; the first request to a link of plant `flaky` fails."""

    def __init__(self) -> None:
        self.asked = 0
        self._pictures = pictures()
        self._met: set[str] = set()

    def answer(self, target: str, host: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body."""
        self.asked += 1
        plant = target.split("/")[1]
        jpeg = {"Content-Type": "image/jpeg"}
        picture = self._pictures[hash(target) % PICTURES]
        if plant == "flaky" and host + target not in self._met:
            self._met.add(host + target)
            return 502, {}, b""  # 503 would let its host rest for a minute
        match plant:
            case "success" | "flaky":
                return 200, jpeg, picture
            case "gone":
                return 410, {}, b""
            case "server_error":
                return 500, {}, b""
            case "too_small":
                return 200, {"Content-Type": "image/png"}, TINY
            case "not_an_image":
                return 200, jpeg, b"<!doctype html><html><body>not here</body></html>" * 20
            case "opted_out":
                return 200, jpeg | {"X-Robots-Tag": "noai"}, picture
            case _:
                return 404, {}, b""

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests until either side closes."""
        host = writer.get_extra_info("sockname")[0]
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, BadRequestError):
            keep = True
            while keep:
                request = await read_request(reader)
                status, headers, body = self.answer(request.target, host)
                keep = request.keep_alive
                headers |= {"Content-Length": str(len(body)), "Connection": "keep-alive" if keep else "close"}
                writer.write(response_head(status, headers) + body)
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def serve(web: Web, port: int, hosts: int, ready: Callable[[], None], stop: asyncio.Event) -> None:
    """Serve until `stop` is set."""
    addresses = [host_address(number) for number in range(hosts)]
    server = await asyncio.start_server(web.converse, host=addresses, port=port, backlog=512)
    ready()
    await stop.wait()
    server.close()


async def _main(port: int, hosts: int) -> None:
    stop = asyncio.Event()
    stop_when_stdin_closes(asyncio.get_running_loop(), stop)
    await serve(Web(), port, hosts, lambda: print("ready", flush=True), stop)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.chaos.web", description="Serve the chaos crawl's web.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--hosts", type=int, required=True)
    arguments = parser.parse_args()
    try:
        asyncio.run(_main(arguments.port, arguments.hosts))
    except OSError as error:
        sys.exit(f"the web cannot listen on port {arguments.port} ({error.strerror}): choose another")


if __name__ == "__main__":
    main()
