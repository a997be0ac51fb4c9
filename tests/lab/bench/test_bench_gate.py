"""The gate: red tests, or none, and nothing is timed; a green verdict holds for exactly that content."""

from __future__ import annotations

from pathlib import Path

import pytest

import gramian
from gramian.errors import ConfigError
from gramian.lab.bench import gate

GREEN = """\
from pathlib import Path
def test_counts_its_runs():
    runs = Path(__file__).with_name("runs")
    runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree of its own, and a cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for folder in ("src/gramian/kernels", "tests/kernels"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "src/gramian/kernels/scan.py").write_text("")
    (tmp_path / "tests/kernels/test_scan.py").write_text(GREEN)
    return tmp_path


def runs(tree: Path) -> int:
    counter = tree / "tests/kernels/runs"
    return len(counter.read_text()) if counter.exists() else 0


def test_green_tests_run_once_for_the_same_content(tree: Path) -> None:
    first = gate.require_green_kernels(tree)
    assert gate.require_green_kernels(tree) == first
    assert runs(tree) == 1


@pytest.mark.parametrize("changed", ["src/gramian/kernels/scan.py", "tests/kernels/helpers.py"])
def test_any_other_content_is_tested_again(tree: Path, changed: str) -> None:
    first = gate.require_green_kernels(tree)
    (tree / changed).write_text("x = 1\n")
    assert gate.require_green_kernels(tree) != first
    assert runs(tree) == 2


def test_moved_file_is_other_content(tree: Path) -> None:
    before = gate.digest(tree)
    kernels = tree / "src/gramian/kernels"
    (kernels / "scan.py").rename(kernels / "scans.py")
    assert gate.digest(tree) != before


def test_red_tests_are_refused_shown_and_not_remembered(tree: Path) -> None:
    (tree / "tests/kernels/test_scan.py").write_text("def test_red():\n    assert 1 == 2\n")
    for _ in range(2):
        with pytest.raises(ConfigError, match="tests are red") as refused:
            gate.require_green_kernels(tree)
    assert "assert 1 == 2" in str(refused.value)
    assert "-m pytest tests/kernels" in refused.value.cure
    assert not list((tree / "cache").rglob("*green*"))


def test_kernels_that_change_while_they_are_tested_have_no_verdict(tree: Path) -> None:
    (tree / "tests/kernels/test_scan.py").write_text(
        "from pathlib import Path\ndef test_edits():\n    Path('src/gramian/kernels/scan.py').write_text('x = 2')\n"
    )
    with pytest.raises(ConfigError, match="changed while the tests ran"):
        gate.require_green_kernels(tree)
    assert not list((tree / "cache").rglob("*green*"))


def test_package_without_its_tests_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "site-packages/gramian/__init__.py"
    monkeypatch.setattr(gramian, "__file__", str(installed))
    with pytest.raises(ConfigError, match="there is no tests/kernels beside it"):
        gate.source_tree()


def test_source_tree_is_where_this_test_stands() -> None:
    assert (gate.source_tree() / "tests/lab/bench" / Path(__file__).name).samefile(__file__)


def test_no_test_at_all_is_not_green(tree: Path) -> None:
    (tree / "tests/kernels/test_scan.py").write_text("")
    with pytest.raises(ConfigError, match="pytest ended with 5"):
        gate.require_green_kernels(tree)
