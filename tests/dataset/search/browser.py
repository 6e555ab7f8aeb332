"""A headless Chromium, driven by its DevTools protocol over two pipes: what a person does, and what they see."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.readers import reader

SECONDS = 20.0
KEYS = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9}


class Browser:
    """One page. Each method fails the test after a time limit."""

    def __init__(self, sending: int, receiving: int) -> None:
        self._sending, self._receiving = sending, receiving
        self._number, self._rest, self._session = 0, b"", ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Page.enable")

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._sending, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self) -> Any:
        while b"\0" not in self._rest:
            data = os.read(self._receiving, 1 << 16)
            assert data, "the browser has ended"
            self._rest += data
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, str(found)[:1_000]
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Wait until an expression is true, checked at each frame of the page, and return its value."""
        look = f"let found; try {{ found = {expression} }} catch {{ found = null }}"
        late = f"Date.now() > {int(SECONDS * 1_000)} + began"
        return self.evaluate(
            "new Promise((resolve, reject) => { const began = Date.now(); const look = () => { "
            f"{look} if (found) resolve(found); else if ({late}) reject(new Error(document.body.innerText));"
            " else setTimeout(look, 10); }; look(); })"
        )

    def type(self, text: str) -> None:
        self._call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        facts = {"key": key, "windowsVirtualKeyCode": KEYS.get(key, ord(key[0].upper()))}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        self._call("Input.dispatchKeyEvent", type="keyDown", text=text, **facts)
        self._call("Input.dispatchKeyEvent", type="keyUp", **facts)

    def resize(self, width: int, height: int) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def prefer(self, **features: str) -> None:
        named = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self._call("Emulation.setEmulatedMedia", features=named)

    def violations(self) -> list[str]:
        """Return what axe-core finds against WCAG 2.2 AA and its best practices; skips the test without axe-core."""
        (source,) = reader("axe").parents[1].glob("lib/*/site-packages/axe_playwright_python/axe.min.js")
        if not self.evaluate("'axe' in window"):
            self._call("Runtime.evaluate", expression=source.read_text(encoding="utf-8"))
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
        options = json.dumps({"runOnly": tags, "resultTypes": ["violations"]})
        found: list[str] = self.evaluate(
            f"axe.run(document, {options}).then(({{ violations }}) => violations.flatMap(({{ id, nodes }}) =>"
            " nodes.map((node) => `${id}: ${node.html.slice(0, 200)} ${node.failureSummary}`)))"
        )
        return found

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))


@contextmanager
def browsing(folder: Path) -> Iterator[Browser]:
    """Run a browser that reaches this machine alone; the test is skipped where there is none."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not there")
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    command = [
        "/bin/bash", "-c", f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}', program, "--remote-debugging-pipe",
        "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.*", "--window-size=1200,900",
    ]  # fmt: skip
    with subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL) as process:
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(ours_out, ours_in)
        finally:
            process.terminate()
            os.close(ours_out)
            os.close(ours_in)
