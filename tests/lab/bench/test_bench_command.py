"""The command: what it refuses, and that the cheap tables come out whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from command_line import Gramian, in_this_process
from gramian.lab.bench import command, gate
from gramian.lab.bench.registry import TABLES, Table
from gramian.lab.bench.report import Result, Section
from gramian.lab.bench.settings import THREADS, Settings


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Gramian:
    """``gramian bench`` in this process, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("gramian.allocator.keep_freed_memory", lambda: True)  # it cannot be taken back
    return in_this_process(monkeypatch, capsys, "bench")


@pytest.fixture
def green(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache in which the kernels of this moment are green: their own tests are not run again here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    verdict = tmp_path / "cache/gramian/bench/kernels-green"
    verdict.parent.mkdir(parents=True)
    verdict.write_text(gate.digest(gate.source_tree()))


def here() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stpe"], "table 'stpe' is not known. Did you mean 'step'? Known: layer, step, "),
        (["step", "--rounds", "3"], "--rounds 3 was given; needed: at least 7"),
        (["step", "--states", "8"], "--states was given; it sizes the profile."),
        (["profile", "--states", "0"], "--states was given"),
        (["--untested"], "No such option"),
    ],
)
def test_bad_input_is_a_message_exit_code_2_and_nothing_written(
    bench: Gramian, arguments: list[str], message: str
) -> None:
    outcome = bench(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert here() == []


def test_red_kernels_are_refused_before_anything_is_timed(bench: Gramian, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(settings: Settings) -> Result:
        raise AssertionError("it was timed")

    tree = Path("../tree").resolve()
    for folder in ("src/gramian/kernels", "tests/kernels"):
        (tree / folder).mkdir(parents=True)
    (tree / "tests/kernels/test_red.py").write_text("def test_red():\n    assert False\n")
    monkeypatch.setattr(command, "source_tree", lambda: tree)
    monkeypatch.setitem(TABLES, "scan", Table("scan", "?", never))  # type: ignore[misc]
    outcome = bench("scan", "--small", "--out", "out")
    assert outcome.code == 2
    assert "the kernels' tests are red (pytest ended with 1): nothing was timed." in outcome.err
    assert here() == []


def test_list_names_every_table_and_its_question(bench: Gramian, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    outcome = bench("--list")
    assert outcome.code == 0
    assert all(table.name in outcome.out and table.question in outcome.out for table in TABLES.values())
    assert here() == []


def test_help_answers_without_torch() -> None:
    code = """
import sys
from gramian.cli import main
sys.argv = ["gramian", "bench", "--help"]
try:
    main()
except SystemExit:
    print(sorted({"torch", "numpy", "numba", "jax", "matplotlib"} & {name.split(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.usefixtures("green")
def test_table_runs_with_its_threads_and_is_written_under_its_command(
    bench: Gramian, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Settings, int]] = []

    def measure(settings: Settings) -> Result:
        seen.append((settings, torch.get_num_threads()))
        return Result([Section("", ("a",), [("1",)])], (), {})

    monkeypatch.setitem(TABLES, "step", Table("step", "How fast?", measure))  # type: ignore[misc]
    before = torch.get_num_threads()
    outcome = bench("step", "--rounds", "9")
    assert outcome.code == 0
    assert seen == [(Settings(9), THREADS)]
    assert torch.get_num_threads() == before
    assert json.loads(Path("benchmarks/results/step.json").read_text())["command"] == "gramian bench step --rounds 9"
    assert Path("benchmarks/results/step.md").read_text() in outcome.out


@pytest.mark.usefixtures("green")
def test_cheap_tables_come_out_whole(bench: Gramian) -> None:
    """The slowest test of this folder: five tables at tiny shapes."""
    names = ["layer", "scan", "evaluate", "inference", "profile"]
    outcome = bench(*names, "--small", "--out", "out")
    assert (outcome.code, outcome.err) == (0, "")
    assert here() == ["out", *sorted(f"out/{name}{suffix}" for name in names for suffix in (".json", ".md"))]
    for name in names:
        content = json.loads(Path(f"out/{name}.json").read_text())
        assert content["smoke"]
        assert content["rounds"] == 3
        assert content["command"] == f"gramian bench {name} --small"
        assert all(len(row) == len(s["columns"]) for s in content["sections"] for row in s["rows"])
        assert all(s["rows"] for s in content["sections"])
    layers = json.loads(Path("out/layer.json").read_text())["data"]
    assert all(len(samples) == 3 for samples in layers["seconds"].values())
    assert {"gramian.LRU, auto, N 12", "copy_ of the states, N 5"} <= layers["seconds"].keys()


@pytest.mark.usefixtures("green")
def test_smoke_run_without_a_folder_writes_nothing(bench: Gramian) -> None:
    outcome = bench("inference", "--small")
    assert outcome.code == 0
    assert "# inference: a smoke run, its numbers mean nothing" in outcome.out
    assert here() == []
