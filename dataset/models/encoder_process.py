"""The program of the encoder process: it loads a CLIP model, and embeds texts and pictures.

    python -P -m dataset.models.encoder_process '{"model": …, "pretrained": …, …}'    # with a socket as its stdin

A text waits at most `GATHER_SECONDS` for others, which then go through the text tower together. Pictures are decoded in
separate processes with bounded memory (`dataset.models.decoders`), so this one never touches their bytes. It ends when
the server's end of the socket is closed.
"""

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import numpy as np
import torch

from dataset import strict_json
from dataset.errors import DatasetError, said_by
from dataset.models.clip import ClipModel, load_model
from dataset.models.decoder_process import receive_into
from dataset.models.decoders import MODELS, Decoders
from dataset.models.encoder_wire import FAILED, FRAME, MAX_PAYLOAD_BYTES, TEXT, UNDECODABLE, VECTOR
from dataset.recipe.recipe import ModelRecipe
from dataset.store.store import Store

GATHER_SECONDS = 0.003
"""A text of ViT-B/32 takes about 20 ms alone on a core, and 5 ms among 32."""
MOST_TEXTS = 32
MOST_PICTURES = 8


class Encoder:
    """Embed the texts and pictures that arrive on a socket until its other end is closed."""

    def __init__(self, line: socket.socket, model: ClipModel) -> None:
        self._line = line
        self._model = model
        self._sending = threading.Lock()
        self._texts: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._pictures: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Serve the socket."""
        loops = (self._embed_texts, self._embed_pictures)
        threads = [threading.Thread(target=_or_end, args=(loop,)) for loop in loops]
        for thread in threads:
            thread.start()
        with contextlib.suppress(EOFError, OSError):
            while True:
                head = bytearray(FRAME.size)
                receive_into(self._line, memoryview(head))
                number, kind, size = FRAME.unpack(head)
                if size > MAX_PAYLOAD_BYTES:
                    break
                payload = bytearray(size)
                receive_into(self._line, memoryview(payload))
                (self._texts if kind == TEXT else self._pictures).put((number, bytes(payload)))
        self._texts.put(None)
        self._pictures.put(None)
        for thread in threads:
            thread.join()

    def _embed_texts(self) -> None:
        while taken := gather(self._texts, MOST_TEXTS, GATHER_SECONDS):
            try:
                rows = self._model.embed_texts([text.decode("utf-8", "replace") for _, text in taken])
            except (DatasetError, RuntimeError) as error:
                self._fail(taken, error)
                continue
            for (number, _), row in zip(taken, rows, strict=True):
                self._send(number, VECTOR, row.astype("<f4").tobytes())

    def _embed_pictures(self) -> None:
        wanted = self._model.preparation
        with Decoders(1, MODELS) as decoders:
            while taken := gather(self._pictures, MOST_PICTURES, 0.0):
                try:
                    pixels = decoders.each(wanted, [picture for _, picture in taken])
                    good = [at for at, item in enumerate(pixels) if item is not None]
                    stacked = _stacked([pixels[at] or b"" for at in good], wanted)
                    rows = self._model.embed_pixels(stacked) if good else ()
                except (DatasetError, RuntimeError) as error:
                    self._fail(taken, error)
                    continue
                found = dict(zip(good, rows, strict=True))
                for at, (number, _) in enumerate(taken):
                    if at in found:
                        self._send(number, VECTOR, found[at].astype("<f4").tobytes())
                    else:
                        self._send(number, UNDECODABLE, b"")

    def _fail(self, taken: Sequence[tuple[int, bytes]], error: Exception) -> None:
        for number, _ in taken:
            self._send(number, FAILED, said_by(error).encode("utf-8"))

    def _send(self, number: int, kind: bytes, payload: bytes) -> None:
        with self._sending, contextlib.suppress(OSError):  # if the server is gone, it needs no answer
            self._line.sendall(FRAME.pack(number, kind, len(payload)) + payload)


def _or_end(loop: Callable[[], None]) -> None:
    """Run a thread's loop; an exception in it ends the process, so that the server starts another one."""
    has_ended = False
    try:
        loop()
        has_ended = True
    finally:
        if not has_ended:
            traceback.print_exc()
            os._exit(1)


def gather(items: queue.SimpleQueue[Any], most: int, seconds: float) -> list[Any]:
    """Return the next item and those that follow within `seconds`, at most `most`; [] at the end, which None marks."""
    first = items.get()
    if first is None:
        return []
    taken, until = [first], monotonic() + seconds
    while len(taken) < most:
        try:
            more = items.get(timeout=max(0.0, until - monotonic()))
        except queue.Empty:
            break
        if more is None:
            items.put(None)
            break
        taken.append(more)
    return taken


def _stacked(pixels: Sequence[bytes], wanted: Any) -> Any:
    shape = (len(pixels), wanted.height, wanted.width, 3)
    return np.frombuffer(bytearray(b"".join(pixels)), np.uint8).reshape(shape)


def main() -> None:
    """Load the model, report it, and serve."""
    asked = json.loads(sys.argv[1])
    with socket.socket(fileno=os.dup(0)) as line:
        try:
            store = Store.open(asked["store"], writable=False) if asked["store"] else None
            model = load_model(ModelRecipe(asked["model"], asked["pretrained"], 0.0), store, asked["device"])
        except DatasetError as error:
            said = str(error).encode("utf-8")
            line.sendall(FRAME.pack(0, FAILED, len(said)) + said)
            return
        if asked["threads"]:
            torch.set_num_threads(asked["threads"])
        said = strict_json.dumps({"model": model.name, "sha256": model.sha256, "dimensions": model.dimensions}).encode(
            "utf-8"
        )
        line.sendall(FRAME.pack(0, VECTOR, len(said)) + said)
        Encoder(line, model).run()


if __name__ == "__main__":
    main()
