"""A slow web on loopback, with its own DNS: of ten hosts two never answer, one has no name, seven take 200 ms.

    python -m tests.benchmarks.bench_download_slow    # prints the ports of the web and of the DNS, serves until stopped

What a host does stands in its name: fast3.test, silent3.test, noname3.test. Of those without a name one in three does
not exist, for one the resolver fails, and for one it says nothing. Each host has one link.
"""

import sys

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import trio

from tests.workers.fetching.odd_web import OddWeb, picture, response, serve_requests

LINKS = 10_000
SECONDS = 0.2
KINDS = ("silent", "fast", "fast", "fast", "noname", "silent", "fast", "fast", "fast", "fast")


def slow_url(port: int, number: int) -> str:
    return f"http://{KINDS[number % len(KINDS)]}{number}.test:{port}/picture.jpg"


async def main() -> None:
    answer = response(picture(), "Content-Type: image/jpeg")

    async def handle(stream: trio.abc.Stream, head: bytes) -> None:
        if b"\r\nhost: silent" in head.lower():
            await trio.sleep_forever()
        await trio.sleep(SECONDS)
        await stream.send_all(answer)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1_024)
    web = OddWeb(listeners[0].socket.getsockname()[1])
    with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as udp:
        await udp.bind(("127.0.0.1", 0))
        sys.stdout.write(f"{web.port} {udp.getsockname()[1]}\n")
        sys.stdout.flush()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_names, udp)

            async def serve(stream: trio.SocketStream) -> None:
                await serve_requests(stream, {"*": handle}, web)

            await trio.serve_listeners(serve, listeners)


async def answer_names(udp: trio.socket.SocketType) -> None:
    while True:
        packet, asker = await udp.recvfrom(4_096)
        query = dns.message.from_wire(packet)
        name = query.question[0].name
        label = name.to_text().partition(".")[0]
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        if not label.startswith("noname"):
            reply.answer.append(dns.rrset.from_text(name, 300, "IN", "A", "127.0.0.1"))
        elif int(label.removeprefix("noname")) // len(KINDS) % 3 == 2:
            continue
        else:
            exists = int(label.removeprefix("noname")) // len(KINDS) % 3
            reply.set_rcode(dns.rcode.SERVFAIL if exists else dns.rcode.NXDOMAIN)
        await udp.sendto(reply.to_wire(), asker)


if __name__ == "__main__":
    trio.run(main)
