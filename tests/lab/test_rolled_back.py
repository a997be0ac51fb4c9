"""A run that goes back: to the model before a cut that cost too much, and on from there."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import assert_same_run, finished, journal, last_checkpoint, same, small_config
from torch import nn

import gramian.lab.train as train_module
from gramian.compression.records import Event
from gramian.lab.data import Split
from gramian.lab.files import read_json
from gramian.lab.run import Run
from gramian.lab.saved_model import load_model
from gramian.lab.train import Interrupted, Watcher, train
from gramian.layers.reducible import reducible_layers


def falls_below(states: int) -> Callable[..., dict[str, float]]:
    """An evaluation in which a model with fewer states is a bad one."""

    def look(model: nn.Module, split: Split) -> dict[str, float]:
        (layer,) = reducible_layers(model).values()
        return {"accuracy": 0.9 if layer.d_state >= states else 0.1, "loss": 1.0}

    return look


def with_rollback(then: str, patience: int = 1, at: tuple[int, ...] = (8,)) -> dict[str, Any]:
    return {
        "train": {"steps": 24, "eval_every": 4, "log_every": 5, "checkpoint_every": 4},
        "compress": {
            "policy": {"shrink": {"by": 0.5}},
            "schedule": {"at": list(at)},
            "rollback": {"drop": 0.0, "then": then, "patience": patience},
            "analyze_every": None,
        },
    }


def test_rolled_back_run_is_the_run_that_was_never_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "evaluate", falls_below(12))
    sections = with_rollback("stop", at=(8, 20))
    run = finished(tmp_path / "back", **sections)
    events = journal(run, "events.jsonl")
    assert [(event["kind"], event["step"], event["resume_at"]) for event in events] == [
        ("cut", 8, None),
        ("rolled_back", 12, 8),
    ]
    assert "the metric was 0.1 after the cut at step 8, 0.9 before" in events[1]["reason"]
    uncut = finished(tmp_path / "uncut", train=sections["train"], compress=None)
    assert last_checkpoint(run)["step"] == 24
    assert same(last_checkpoint(run)["snapshot"], last_checkpoint(uncut)["snapshot"])
    rows = journal(run, "metrics.jsonl")
    turn = max(i for i, row in enumerate(rows) if row.get("state/total") == 6) + 1
    expected = [row for row in journal(uncut, "metrics.jsonl") if row["step"] > 8]
    assert rows[turn:] == expected
    assert load_model(run).config["model"]["d_state"] == [12]


def test_cautious_run_goes_on_with_half_the_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "evaluate", falls_below(9))
    run = finished(tmp_path / "run", **with_rollback("cautious", at=(8, 16)))
    events = journal(run, "events.jsonl")
    assert [(event["kind"], event["step"]) for event in events] == [("cut", 8), ("rolled_back", 12), ("cut", 16)]
    assert [layer["after"] for event in events for layer in event["layers"]] == [6, 9]
    assert load_model(run).config["model"]["d_state"] == [9]
    assert read_json(run / "summary.json")["steps"] == 24


def test_roll_back_waits_for_its_patience(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "evaluate", falls_below(12))
    run = finished(tmp_path / "run", **with_rollback("stop", patience=2, at=(8, 12)))
    found = [(event["kind"], event["step"]) for event in journal(run, "events.jsonl")]
    assert found == [("cut", 8), ("skipped", 12), ("rolled_back", 16)]


def test_no_cut_is_made_before_there_is_a_metric_to_go_back_by(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", **with_rollback("stop", at=(3,)))
    (event,) = journal(run, "events.jsonl")
    assert (event["step"], event["kind"]) == (3, "skipped")
    assert "needs the metric before the first cut" in event["reason"]


class CtrlCAfterRollBack(Watcher):
    def happened(self, run: Run, event: Event) -> None:
        if event.kind == "rolled_back":
            os.kill(os.getpid(), signal.SIGINT)


def test_run_stopped_after_a_roll_back_goes_on_from_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "evaluate", falls_below(12))
    sections, folder = with_rollback("stop", patience=3), tmp_path / "run"
    with pytest.raises(Interrupted, match="stopped at step 8"):
        train(small_config(**sections), folder, watcher=CtrlCAfterRollBack())
    resumed = Run.resume(folder)
    assert resumed.step == 8
    assert resumed.sizes == {"blocks.0.lru": 12}
    assert [event["kind"] for event in journal(folder, "events.jsonl")] == ["cut", "rolled_back"]
    train(None, folder, resume=True)
    assert_same_run(folder, finished(tmp_path / "through", **sections))
