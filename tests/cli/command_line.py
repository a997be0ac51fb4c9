"""The command line in tests: how it is called, what it answers, and how to read that."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Gramian = Callable[..., Outcome]


def here() -> list[str]:
    """All files and folders in the folder of the command line."""
    return sorted(str(path) for path in Path().rglob("*"))


def plain(text: str) -> str:
    """What was said, without colours and line breaks."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())
