"""`gramian reproduce`: one experiment, carried out in full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command_line import Gramian


def test_experiment_runs_once_and_writes_results_table_and_figures(
    gramian: Gramian, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slowest test of the command line: five short runs on sequences of 784 steps."""
    from gramian.lab.experiments import reproduce

    load, short = reproduce.load_config, ("train.steps=60", "train.eval_every=30", "train.checkpoint_every=30")
    monkeypatch.setattr(reproduce, "load_config", lambda name, more=(): load(name, [*short, *more]))
    outcome = gramian("reproduce", "smnist", "--scale", "tiny", "--seeds", "1")
    assert outcome.code == 0
    names = ["full", "tau 0.04", "tau 0.10", "scratch as tau 0.04", "scratch as tau 0.10"]
    assert [name for name in names if f"smnist-tiny  seed 1  {name}  (" in outcome.out] == names
    results = json.loads(Path("results/smnist-tiny.json").read_text())
    assert list(results["variants"]) == names
    runs: dict[str, Any] = {name: variant["runs"][0] for name, variant in results["variants"].items()}
    assert runs["full"]["states"] == 64
    assert not runs["full"]["events"]
    for tau in ("0.04", "0.10"):
        cut, scratch = runs[f"tau {tau}"], runs[f"scratch as tau {tau}"]
        assert 64 > cut["states"] == scratch["states"]
        assert [event["step"] for event in cut["events"]] == [10, 20]
        assert not scratch["events"]
    assert runs["tau 0.10"]["states"] < runs["tau 0.04"]["states"]
    assert all(run["seed"] == 1 and run["curve"]["step"] == [30, 60] for run in runs.values())
    table = Path("results/smnist-tiny.md").read_text()
    assert "a check that it runs, not a reproduction" in table
    assert "`gramian reproduce smnist --scale tiny --seeds 1`" in table
    assert all(f"| {name} | {runs[name]['states']} | {runs[name]['valid']:.3f} |" in table for name in names)
    assert {path.suffix for path in Path("results").iterdir()} == {".json", ".md", ".svg", ".png"}

    def repeated(*_: object, **__: object) -> None:
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr(reproduce, "train", repeated)
    written = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")}
    assert gramian("reproduce", "smnist", "--scale", "tiny", "--seeds", "1").code == 0
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*")} == written
    assert json.loads(Path("results/smnist-tiny.json").read_text())["variants"] == results["variants"]
