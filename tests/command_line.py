"""The command line in tests: how it is called, what it answers, and how to read that."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from gramian.cli import main


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Gramian = Callable[..., Outcome]


def in_this_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *before: str) -> Gramian:
    """The command line in this process; all calls begin with the arguments `before`."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["gramian", *before, *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return Outcome(int(stopped.value.code or 0), said.out, said.err)

    return run


def here() -> list[str]:
    """All files and folders in the folder of the command line."""
    return sorted(str(path) for path in Path().rglob("*"))


def plain(text: str) -> str:
    """What was said, without colours and line breaks."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
