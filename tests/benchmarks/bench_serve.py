"""The search server beside the real clip_back, on the same vectors at equal recall, clients on the same cores.

    python -m tests.benchmarks.bench_serve [--rows 1000000] [--seconds 15] [--clip-back PYTHON] [--overload SECONDS]

Vectors are like CLIP's and have 512 dimensions; both sides have an IVF index with the same centroids and float16
codes, and probe as many lists as give the same recall@10 of held-out pictures. The text encoder is ViT-B/32 with
random weights. clip_back runs in the environment that `make readers` made, with its metadata in pandas, which is its
default, and as Arrow files; the faster one counts. On a machine that others use, compare CPU time per query. With
--overload, 50 clients, and then 600, ask three times as often as the server can answer, beside slow clients and uploads
of a gigabyte. The last line is JSON.
"""

import argparse
import json
import os
import re
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from dataset.index.lookup import open_index
from tests.benchmarks.clip_like import ClipLike
from tests.readers import FOLDER as READERS

DIMENSIONS = 512
FILE_ROWS = 100_000
RESULTS = 40
CLIENTS = 8
MANY_CLIENTS = 600
"""More than the server lets wait: some are refused."""
CLIENTS_OF_ADDRESS = 200
"""The server takes 256 connections of an address."""
HELD_OUT = 500
PROGRAM = Path(__file__).with_name("clip_back_program.py")

Rows = npt.NDArray[np.float32]


@dataclass(slots=True)
class Load:
    """What clients saw: seconds of the answers with 200, counts by status, and how long it took."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wall: float = 0.0

    def per_second(self) -> float:
        return len(self.seconds) / self.wall

    def quantile_ms(self, share: float) -> float:
        found = sorted(self.seconds)
        return 1_000 * found[min(len(found) - 1, int(share * len(found)))] if found else float("nan")


class Line:
    """One HTTP connection, kept if the server keeps it; cheap, because clients share the cores with the server."""

    def __init__(self, port: int, source: str | None = None) -> None:
        self._port, self._source = port, source
        self.line: socket.socket | None = None
        self._data = bytearray()

    def ask(self, request: bytes) -> tuple[int, bytes]:
        for _ in range(2):
            try:
                self.send(request)
                while (answer := self.receive()) is None:
                    pass
            except (OSError, IndexError, ValueError):
                self.close()
            else:
                return answer
        return 0, b""

    def send(self, request: bytes) -> None:
        if self.line is None:
            self.line = socket.create_connection(("127.0.0.1", self._port), 60, self._source and (self._source, 0))
            self.line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data.clear()
        self.line.sendall(request)

    def receive(self) -> tuple[int, bytes] | None:
        """Receive what has come; return the status and the body when the answer is complete."""
        assert self.line is not None
        piece = self.line.recv(1 << 18)
        if not piece:
            raise OSError("closed")
        self._data += piece
        if (end := self._data.find(b"\r\n\r\n")) < 0:
            return None
        head = bytes(self._data[:end]).lower()
        length = re.search(rb"content-length: *(\d+)", head)
        if len(self._data) < end + 4 + (int(length[1]) if length else 0):
            return None
        answer = int(head.split(b" ")[1]), bytes(self._data[end + 4 :])
        if head.startswith(b"http/1.0") or b"connection: close" in head:
            self.close()
        return answer

    def close(self) -> None:
        if self.line is not None:
            self.line.close()
            self.line = None


@dataclass(slots=True)
class Client:
    """One of a crowd: when its next request is due, or when the one that waits for an answer was sent."""

    line: Line
    at: int
    due: float
    sent: float = 0.0


class Crowd:
    """Clients in one thread: with a thread for each they took as much of the cores as the server.

    With a `rate`, each sends its requests at their times, as soon as the one before has an answer.
    """

    def __init__(self, port: int, requests: Callable[[int], bytes], clients: int, rate: float) -> None:
        self.load, self._requests, self._rate = Load(), requests, rate
        self._ready = selectors.DefaultSelector()
        self._started = time.perf_counter()
        self._clients = [Client(Line(port, _source_of(at)), at, self._due(at)) for at in range(clients)]
        self._idle = [*self._clients]

    def ask(self, seconds: float) -> None:
        """Send requests for some seconds, and wait for the last answers."""
        end = self._started + seconds
        while (now := time.perf_counter()) < end or len(self._idle) < len(self._clients):
            self._send([one for one in self._idle if one.due <= now < end], now)
            wake = min([end, *(one.due for one in self._idle)]) if now < end else now + 1
            for key, _ in self._ready.select(max(0.0, wake - now)):
                self._receive(key)
        for one in self._clients:
            one.line.close()
        self.load.wall = time.perf_counter() - self._started

    def _due(self, at: int) -> float:
        return self._started + at / self._rate if self._rate else self._started

    def _send(self, clients: Sequence[Client], now: float) -> None:
        for one in clients:
            self._idle.remove(one)
            one.sent = now
            try:
                one.line.send(self._requests(one.at))
                assert one.line.line is not None
                self._ready.register(one.line.line, selectors.EVENT_READ, one)
            except OSError:
                self._note(one, 0)

    def _receive(self, key: selectors.SelectorKey) -> None:
        one: Client = key.data
        try:
            answer = one.line.receive()
        except (OSError, IndexError, ValueError):
            answer = 0, b""
        if answer is not None:
            self._ready.unregister(key.fileobj)
            self._note(one, answer[0])

    def _note(self, one: Client, status: int) -> None:
        if not status:
            one.line.close()
        self.load.statuses[status] += 1
        if status == 200:
            self.load.seconds.append(time.perf_counter() - one.sent)
        one.at += len(self._clients)
        one.due = self._due(one.at)
        self._idle.append(one)


def _source_of(client: int) -> str | None:
    """Return the address of a client; None for the usual one, with which the kernel picks a port when it connects."""
    return f"127.0.0.{1 + client // CLIENTS_OF_ADDRESS}" if client >= CLIENTS_OF_ADDRESS else None


def post(fields: dict[str, Any], path: str = "/knn-service") -> bytes:
    body = json.dumps(fields).encode()
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


def knn(results: int = RESULTS, **query: Any) -> bytes:
    return post({"modality": "image", "num_images": results, "indice_name": None, "use_safety_model": False, **query})


def put_load(
    port: int, requests: Callable[[int], bytes], seconds: float, clients: int = CLIENTS, rate: float = 0
) -> Load:
    """Ask for some seconds; with a `rate`, so many requests a second are sent, whatever the answers."""
    crowd = Crowd(port, requests, clients, rate)
    crowd.ask(seconds)
    return crowd.load


def make_rows(folder: Path, rows: int) -> Rows:
    """Write vectors and metadata in clip-retrieval's layout, unless they are there; return held-out queries."""
    like = ClipLike(dimensions=DIMENSIONS)
    queries = like.pairs(HELD_OUT, 1_000_000)[0].astype(np.float32)  # pictures that are not among the rows
    for start in range(0, rows, FILE_ROWS):
        count, name = min(FILE_ROWS, rows - start), f"{start // FILE_ROWS:04d}"
        vectors, table = folder / "img_emb" / f"img_emb_{name}.npy", folder / "metadata" / f"metadata_{name}.parquet"
        if table.exists():
            continue
        vectors.parent.mkdir(parents=True, exist_ok=True)
        table.parent.mkdir(parents=True, exist_ok=True)
        np.save(vectors, like.pairs(count, start // FILE_ROWS)[0])
        numbers = range(start, start + count)
        columns = {
            "url": [
                f"https://images.host{n % 9_973}.example/{n % 97:02d}/{n}-{n * 7_919 % 10**9:x}.jpg" for n in numbers
            ],
            "caption": [
                f"caption {n}: a picture of thing {n % 1_009} beside thing {n % 2_003} in place {n % 89}"
                for n in numbers
            ],
        }
        pq.write_table(pa.table(columns), table)
    return queries


def exact(folder: Path, queries: Rows) -> npt.NDArray[np.int64]:
    """Return the ten nearest rows of each query by brute force."""
    best = np.zeros((len(queries), 0), np.float32)
    ids = np.zeros((len(queries), 0), np.int64)
    start = 0
    for path in sorted((folder / "img_emb").iterdir()):
        rows = np.load(path).astype(np.float32)
        near = queries @ rows.T
        top = np.argpartition(-near, 10, axis=1)[:, :10]
        best = np.concatenate([best, np.take_along_axis(near, top, 1)], axis=1)
        ids = np.concatenate([ids, top + start], axis=1)
        start += len(rows)
    return np.take_along_axis(ids, np.argsort(-best, axis=1)[:, :10], 1)


def recall(found: Sequence[Sequence[int]], truth: npt.NDArray[np.int64]) -> float:
    return float(
        np.mean([len({*one[:10]} & {*wanted.tolist()}) / 10 for one, wanted in zip(found, truth, strict=True)])
    )


def recall_of(port: int, queries: Rows, truth: npt.NDArray[np.int64]) -> float:
    line = Line(port)
    answers = [json.loads(line.ask(knn(10, embedding_input=query.tolist()))[1]) for query in queries]
    line.close()
    return recall([[row["id"] for row in one] for one in answers], truth)


def make_clip_back_index(
    folder: Path, trained: Path, wanted: float, queries: Rows, truth: npt.NDArray[np.int64]
) -> Path:
    """Write clip_back's index: float16 codes in lists with our centroids, and the fewest probes that reach a recall.

    Training its own would take minutes, and is not what is compared.
    """
    path = folder / "clip_back" / "image.index"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        files = sorted((folder / "img_emb").iterdir())
        index = faiss.read_index(str(trained))
        for file in files:
            index.add(np.load(file).astype(np.float32))
        faiss.write_index(index, str(path))
        (path.parent / "metadata").symlink_to((folder / "metadata").absolute())
        arrow = folder / "clip_back_arrow"
        (arrow / "metadata").mkdir(parents=True)
        (arrow / "image.index").symlink_to(path.absolute())
        table = pa.concat_tables([pq.read_table(file) for file in sorted((folder / "metadata").iterdir())])
        with (
            pa.OSFile(str(arrow / "metadata" / "0.arrow"), "wb") as file,
            pa.ipc.new_file(file, table.schema) as writer,
        ):
            writer.write_table(table)
    index = faiss.read_index(str(path))

    def reaches(probes: int) -> bool:
        index.nprobe = probes
        return recall(index.search(queries, 10)[1].tolist(), truth) >= wanted

    probes = index.nprobe = bisect_left(range(257), True, lo=1, hi=256, key=reaches)
    faiss.write_index(index, str(path))
    print(f"clip_back probes {probes} lists", file=sys.stderr)
    return path.parent


def make_model(folder: Path) -> Path:
    """Write ViT-B/32 with random weights as a model folder."""
    import dataset.models.torchvision_shim  # noqa: F401 - before open_clip, which imports torchvision

    import open_clip  # isort: skip
    import torch
    from safetensors.torch import save_file

    place = folder / "model"
    if not (place / "open_clip_config.json").exists():
        place.mkdir(exist_ok=True)
        torch.manual_seed(0)
        network = open_clip.create_model("ViT-B-32")
        weights = {name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()}
        save_file(weights, place / "open_clip_model.safetensors")
        config = {"model_cfg": open_clip.get_model_config("ViT-B-32"), "preprocess_cfg": {}}
        mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
        config["preprocess_cfg"] = {"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "shortest"}
        (place / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    return place


@contextmanager
def running(command: Sequence[str | Path], port: int, log: Path) -> Iterator[psutil.Process]:
    """Run a server until the block ends; it is there when it answers."""
    with log.open("w", encoding="utf-8") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        try:
            for _ in range(1_800):
                if process.poll() is not None:
                    raise RuntimeError(log.read_text(encoding="utf-8")[-2_000:])
                line = Line(port)
                if line.ask(b"GET /indices-list HTTP/1.1\r\nHost: x\r\n\r\n")[0] == 200:
                    line.close()
                    break
                time.sleep(0.2)
            yield psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def resident_mib(process: psutil.Process) -> float:
    """Return the memory of a process and its children that is not of mapped files."""
    found = 0
    for one in (process, *process.children(recursive=True)):
        status = Path(f"/proc/{one.pid}/status").read_text(encoding="utf-8")
        found += int(re.search(r"RssAnon:\s+(\d+)", status)[1])  # type: ignore[index]
    return found / 1024


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process and its children: on a busy machine it says more than the clock."""
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def say(**facts: Any) -> None:
    said = (f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in facts.items())
    print("  ".join(said), file=sys.stderr, flush=True)


def measure_ours(port: int, process: psutil.Process, vectors: Sequence[bytes], seconds: float) -> dict[str, Any]:
    put_load(port, lambda at: vectors[at % len(vectors)], 2)
    before = cpu_seconds(process)
    load = put_load(port, lambda at: vectors[at % len(vectors)], seconds)
    cpu_ms = 1_000 * (cpu_seconds(process) - before) / max(1, len(load.seconds))
    say(
        what="by vector",
        cpu_ms=cpu_ms,
        per_second=load.per_second(),
        statuses=dict(load.statuses),
        p99=load.quantile_ms(0.99),
    )
    cached = put_load(port, lambda at: knn(text=f"a known text {at % 50}"), 3)
    cached = put_load(port, lambda at: knn(text=f"a known text {at % 50}"), seconds / 2)
    new = put_load(
        port, lambda at: knn(text=f"new text {at}: a red fox in the snow near house {at * 7919}"), seconds / 2
    )
    say(cached=cached.per_second(), new=new.per_second(), statuses=dict(new.statuses))
    line = Line(port)
    took = []
    for at in range(5):
        request = knn(10_000, embedding_input=json.loads(vectors[at].split(b"\r\n\r\n")[1])["embedding_input"])
        begun = time.perf_counter()
        status, body = line.ask(request)
        took.append(time.perf_counter() - begun)
        assert (status, len(json.loads(body))) == (200, 10_000), (status, len(body))
    line.close()
    return {
        "http_queries_per_s": load.per_second(),
        "http_p50_ms": load.quantile_ms(0.5),
        "http_p99_ms": load.quantile_ms(0.99),
        "cpu_ms_per_query": cpu_ms,
        "cached_text_per_s": cached.per_second(),
        "new_text_per_s": new.per_second(),
        "ten_thousand_results_s": statistics.median(took),
        "resident_mib": resident_mib(process),
    }


def overload(port: int, process: psutil.Process, vectors: Sequence[bytes], seconds: float) -> dict[str, Any]:
    """Ask three times as often as the server can answer, beside slow clients and huge uploads."""
    capacity = put_load(port, lambda at: vectors[at % len(vectors)], min(10, seconds)).per_second()
    found: dict[str, Any] = {"capacity_per_s": capacity}
    before = resident_mib(process)
    for clients in (50, MANY_CLIENTS):
        with slow_clients_and_uploads(port):
            load = put_load(port, lambda at: vectors[at % len(vectors)], seconds, clients, 3 * capacity)
        found[f"{clients}_clients"] = {
            "accepted_per_s": load.per_second(),
            "statuses": dict(load.statuses),
            "accepted_p50_ms": load.quantile_ms(0.5),
            "accepted_p99_ms": load.quantile_ms(0.99),
            "grown_mib": resident_mib(process) - before,
        }
    return found


@contextmanager
def slow_clients_and_uploads(port: int) -> Iterator[None]:
    """Until the block ends, upload a gigabyte again and again, and let two clients not finish their requests."""
    stop = threading.Event()

    def upload() -> None:
        while not stop.is_set():
            with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
                line.sendall(b"POST /knn-service HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
                piece = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
                try:
                    for _ in range(1_024):
                        line.sendall(piece)
                except OSError:
                    stop.wait(1)

    def dawdle() -> None:
        while not stop.is_set():
            with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
                line.sendall(b"POST /knn-service HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
                stop.wait(5)

    others = [threading.Thread(target=one) for one in (upload, dawdle, dawdle)]
    for thread in others:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in others:
            thread.join()


def measure_clip_back(python: Path, folder: Path, vectors: Sequence[bytes], seconds: float, queries: Rows,
                      truth: npt.NDArray[np.int64]) -> dict[str, float]:  # fmt: skip
    best: dict[str, float] = {}
    for kind in ("clip_back", "clip_back_arrow"):
        port, names = free_port(), folder / f"{kind}.json"
        names.write_text(json.dumps({"bench": str((folder / kind).absolute())}), encoding="utf-8")
        command: list[str | Path] = [python, PROGRAM, names, str(port), *(["--arrow"] if "arrow" in kind else [])]
        with running(command, port, folder / f"{kind}.log") as process:
            reached = recall_of(port, queries[:100], truth[:100])
            put_load(port, lambda at: vectors[at % len(vectors)], 2)
            before = cpu_seconds(process)
            load = put_load(port, lambda at: vectors[at % len(vectors)], seconds)
            cpu_ms = 1_000 * (cpu_seconds(process) - before) / max(1, len(load.seconds))
        say(what=kind, cpu_ms=cpu_ms, per_second=load.per_second(), statuses=dict(load.statuses), recall=reached)
        found = {"queries_per_s": load.per_second(), "p50_ms": load.quantile_ms(0.5), "p99_ms": load.quantile_ms(0.99),
                 "recall_at_10": reached, "cpu_ms_per_query": cpu_ms}  # fmt: skip
        if found["queries_per_s"] > best.get("queries_per_s", 0):
            best = found
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--folder", type=Path, default=Path(".shoal/bench-serve"))
    parser.add_argument("--clip-back", type=Path, default=READERS / "clip-retrieval" / "bin" / "python")
    parser.add_argument("--overload", type=float, default=0.0, help="seconds of overload, instead of the comparison")
    asked = parser.parse_args()
    folder = asked.folder / str(asked.rows)
    queries = make_rows(folder, asked.rows)
    truth = exact(folder, queries)
    own = [sys.executable, "-c", "from dataset.main import main; main()"]
    index = folder / "index" / "vectors" / "image"
    if not (index / "index.json").exists():
        begun = time.perf_counter()
        subprocess.run([*own, "index", "build", str(folder), "--kind", "sq16"], check=True, stdout=subprocess.DEVNULL)
        say(built_s=time.perf_counter() - begun)
    vectors = [knn(embedding_input=query.tolist()) for query in queries]
    port, model = free_port(), make_model(folder.parent)
    command = [*own, "serve", str(index), "--port", str(port), "--per-second", "0", "--model", "bench", "--pretrained",
               str(model), "--store", str(folder)]  # fmt: skip
    with running(command, port, folder / "serve.log") as process:
        if asked.overload:
            print(json.dumps({"rows": asked.rows, **overload(port, process, vectors, asked.overload)}))
            return
        reached = recall_of(port, queries[:100], truth[:100])
        found = {"rows": asked.rows, "recall_at_10": reached, **measure_ours(port, process, vectors, asked.seconds)}
    if asked.clip_back.exists():
        trained = index / open_index(index).record.trained.path
        make_clip_back_index(folder, trained, reached, queries[:100], truth[:100])
        theirs = measure_clip_back(asked.clip_back, folder, vectors, asked.seconds, queries, truth)
        found |= {"clip_back": theirs, "vs_clip_back": found["http_queries_per_s"] / theirs["queries_per_s"]}
    else:
        found["vs_clip_back"] = None
    print(json.dumps(_rounded(found) | {"cores": len(os.sched_getaffinity(0))}))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 3) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
