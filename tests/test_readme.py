"""What the README promises: its code runs, its files are there, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


def text() -> str:
    if not README.is_file():
        pytest.skip("there is no README.md yet")
    return README.read_text(encoding="utf-8")


def python_blocks(readme: str) -> list[str]:
    """Every block of Python, after so many empty lines that its errors have the README's line numbers."""
    found = re.finditer(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    return ["\n" * readme[: match.start(1)].count("\n") + match[1] for match in found]


def test_python_of_the_readme_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = python_blocks(text())
    if not blocks:
        pytest.skip("README.md has no block of Python yet")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block in blocks:  # one reader, one session: a block may use what an earlier one has made
        exec(compile(block, str(README), "exec"), namespace)
    assert list(tmp_path.iterdir()) == []


def test_files_that_the_readme_links_to_exist() -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", text())
    assert targets
    paths = [target.partition("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_commands_in_the_readme_are_commands() -> None:
    from gramian.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {group.name for group in app.registered_groups if group.name}
    assert set(re.findall(r"`gramian ([a-z]+)", text())) - known == set()


def test_readme_has_no_gaps_left_to_fill() -> None:
    assert re.findall(r"@@\w+@@|TODO|FIXME", text()) == []
