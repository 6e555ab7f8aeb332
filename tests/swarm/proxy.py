"""A proxy before Postgres that stops a worker at an exact moment, without sleeps.

It forwards both ways until a client sends bytes that contain `needle`. These are held back and `held` is set; the test
then kills or stops the worker or cuts the reply, and may release the bytes.
"""

import socket
import threading
from contextlib import suppress

from psycopg.conninfo import conninfo_to_dict, make_conninfo

CHUNK_BYTES = 1 << 16


class Proxy:
    def __init__(self, database: str, needle: bytes, *, cut_reply: bool = False) -> None:
        """With `cut_reply`, forward the needle and cut the connection once when the reply comes."""
        self.held = threading.Event()
        self._database = database
        self._needle = needle
        self._cut_reply = cut_reply
        self._is_closed = False
        self._go = threading.Event()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        port = self._listener.getsockname()[1]
        return make_conninfo(self._database, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")

    def release(self) -> None:
        """Forward the held bytes."""
        self._go.set()

    def close(self) -> None:
        """Cut every connection; held bytes never reach the server."""
        self._is_closed = True
        self._go.set()
        self._listener.close()
        with self._lock:
            for one in self._sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = self._connect()
                with self._lock:
                    self._sockets += [client, server]
                cutting = threading.Event()
                threading.Thread(target=self._to_server, args=(client, server, cutting), daemon=True).start()
                threading.Thread(target=self._to_client, args=(server, client, cutting), daemon=True).start()

    def _connect(self) -> socket.socket:
        target = conninfo_to_dict(self._database)
        host, port = str(target["host"]), int(target.get("port") or 5432)
        if not host.startswith("/"):
            return socket.create_connection((host, port))
        server = socket.socket(socket.AF_UNIX)
        server.connect(f"{host}/.s.PGSQL.{port}")
        return server

    def _to_server(self, client: socket.socket, server: socket.socket, cutting: threading.Event) -> None:
        with suppress(OSError):
            while data := client.recv(CHUNK_BYTES):
                if self._needle in data and not self.held.is_set():
                    self.held.set()
                    if self._cut_reply:
                        cutting.set()
                    else:
                        self._go.wait()
                        if self._is_closed:
                            return
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _to_client(self, server: socket.socket, client: socket.socket, cutting: threading.Event) -> None:
        with suppress(OSError):
            while data := server.recv(CHUNK_BYTES):
                if cutting.is_set():
                    break
                client.sendall(data)
            for one in (client, server):
                one.shutdown(socket.SHUT_RDWR)
