"""Run the command `tracker` in this process; return its output and exit code."""

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from tracker.admin.console import out
from tracker.main import main


@dataclass(frozen=True, slots=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


class Console:
    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        monkeypatch.setenv("SHOAL_DATABASE_URL", url)
        monkeypatch.setattr(out, "_width", 200)

    def __call__(self, *arguments: object) -> Said:
        self._monkeypatch.setattr(sys, "argv", ["tracker", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = self._capsys.readouterr()
        return Said(int(end.value.code or 0), said.out, said.err)

    def json(self, *arguments: object) -> Any:
        """What a command that ends well prints with --json."""
        said = self(*arguments, "--json")
        assert said.code == 0, said.err
        return said.data

    def refusal(self, *arguments: object) -> str:
        """The one sentence of a command that fails."""
        said = self(*arguments)
        assert said.code == 1
        (sentence,) = said.err.splitlines()
        return sentence
