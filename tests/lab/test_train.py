"""A whole run: what it writes and when, that it can be repeated, and what it refuses."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import assert_same_run, finished, journal, last_checkpoint, rows_with, same, small_config

import gramian.lab.train as train_module
from gramian.compression.records import Event
from gramian.errors import CheckpointError, ConfigError, DataError
from gramian.lab.config import load_config
from gramian.lab.files import read_json
from gramian.lab.run import Run
from gramian.lab.train import Watcher, train


def test_run_folder_holds_what_it_promises_and_no_drafts(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "config.yaml",
        "environment.json",
        "events.jsonl",
        "metrics.jsonl",
        "model",
        "spectra.safetensors",
        "summary.json",
    ]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_00000030", "step_00000040"]
    assert not [path for path in run.rglob("*") if path.name.startswith(".")]
    assert load_config(run / "config.yaml") == small_config()
    environment = read_json(run / "environment.json")
    assert environment["torch"] == torch.__version__
    assert environment["threads"] == 1


def test_cuts_happen_at_the_steps_of_the_schedule_and_sizes_follow(run: Path) -> None:
    events = journal(run, "events.jsonl")
    assert [(event["step"], event["kind"]) for event in events] == [(8, "cut"), (16, "cut")]
    (first,), (second,) = (event["layers"] for event in events)
    assert 12 == first["before"] > first["after"] == second["before"] > second["after"]
    sizes = {row["step"]: row["state/total"] for row in rows_with(run, "train/loss")}
    expected = {5: 12, 10: first["after"], 15: first["after"]} | dict.fromkeys(range(20, 45, 5), second["after"])
    assert sizes == expected
    assert all(row["state/blocks.0.lru"] == row["state/total"] for row in rows_with(run, "state/total"))
    assert read_json(run / "model" / "config.json")["model"]["d_state"] == [second["after"]]
    summary = read_json(run / "summary.json")
    assert (summary["full"]["states"], summary["now"]["states"]) == (12, second["after"])
    assert summary["now"]["parameters"] < summary["full"]["parameters"]
    assert summary["step_time_ratio"]["n"] == 7


def test_rows_are_written_at_their_steps(run: Path) -> None:
    assert [row["step"] for row in rows_with(run, "train/loss")] == list(range(5, 45, 5))
    assert [row["step"] for row in rows_with(run, "eval/accuracy")] == [10, 20, 30, 40]
    # A look has a drift unless it is the first, or the first of a new size: those start a comparison.
    assert [row["step"] for row in rows_with(run, "drift/rank/blocks.0.lru")] == [12, 16, 24, 36]
    spectra = load_file(run / "spectra.safetensors")
    assert sorted(spectra) == [f"blocks.0.lru/{step:08d}" for step in (8, 12, 16, 24, 36)]
    before_first, after_first = (event["layers"][0]["before"] for event in journal(run, "events.jsonl"))
    lengths = [len(spectra[key]) for key in sorted(spectra)]
    last = read_json(run / "summary.json")["now"]["states"]
    assert lengths == [2 * n for n in (before_first, after_first, after_first, last, last)]


def test_seconds_never_run_backwards_and_hold_the_cuts(run: Path) -> None:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    summary = read_json(run / "summary.json")
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert summary["cuts_seconds"] == sum(event["seconds"] for event in events) > 0
    assert summary["seconds"] == seconds[-1] > summary["cuts_seconds"]


def test_training_learns(run: Path) -> None:
    for key in ("train/loss", "eval/loss"):
        losses = [row[key] for row in rows_with(run, key)]
        assert losses[-1] < losses[0] - 0.05


def test_same_seed_gives_the_same_bits_and_another_seed_does_not(run: Path, tmp_path: Path) -> None:
    assert_same_run(run, finished(tmp_path / "again"))
    other = finished(tmp_path / "other", train={"seed": 4})
    assert journal(other, "metrics.jsonl") != journal(run, "metrics.jsonl")


def test_run_without_compression_keeps_its_size(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", compress=None, train={"steps": 10})
    assert not (run / "events.jsonl").exists()
    assert not (run / "spectra.safetensors").exists()
    summary = read_json(run / "summary.json")
    assert summary["now"]["states"] == summary["full"]["states"] == 12
    assert "step_time_ratio" not in summary
    assert [row["step"] for row in rows_with(run, "eval/accuracy")] == [10]


def test_spectra_that_are_only_looked_at_do_not_change_training(run: Path, tmp_path: Path) -> None:
    other = finished(tmp_path / "run", compress={"analyze_every": None})
    assert (other / "model/model.safetensors").read_bytes() == (run / "model/model.safetensors").read_bytes()
    assert same(last_checkpoint(other)["snapshot"], last_checkpoint(run)["snapshot"])


def test_slow_looks_become_rare_are_noted_and_leave_the_training_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every look seems to take an hour: the second is the last, and the weights are those of a run without looks."""
    clock, slow = [0.0], train_module.drift

    def an_hour_later(*given: Any) -> dict[str, float]:
        clock[0] += 3600
        return slow(*given)

    monkeypatch.setattr(train_module, "drift", an_hour_later)
    real = time.perf_counter
    monkeypatch.setattr(train_module.time, "perf_counter", lambda: real() + clock[0])
    run = finished(tmp_path / "run", compress={"schedule": {"at": [40]}, "analyze_every": 2, "analyze_share": 0.5})
    noted = [event for event in journal(run, "events.jsonl") if event["kind"] == "noted"]
    assert len(noted) == 1
    assert "a look at the spectra took 3.6e+03 s: looking every" in noted[0]["reason"]
    assert len([row for row in journal(run, "metrics.jsonl") if "drift/rank/blocks.0.lru" in row]) == 1
    plain = finished(tmp_path / "plain", compress={"schedule": {"at": [40]}, "analyze_every": None})
    assert (run / "model/model.safetensors").read_bytes() == (plain / "model/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"precision": "bf16"}},
        {"compress": {"realization": "complex", "optimizer_state": "reset"}},
        {"compress": {"keep": "smallest", "policy": {"shrink": {"by": 0.3}}}},
        {"model": {"n_layers": 2, "norm": "layer"}, "compress": {"policy": {"budget": {"total": 14}}}},
    ],
    ids=["bf16", "complex", "smallest", "two blocks"],
)
def test_other_settings_train_and_cut_as_well(tmp_path: Path, sections: dict[str, Any]) -> None:
    small = {"steps": 12, **sections.pop("train", {})}
    run = finished(tmp_path / "run", train=small, **sections)
    assert [event["kind"] for event in journal(run, "events.jsonl")] == ["cut"]
    summary = read_json(run / "summary.json")
    assert summary["now"]["states"] < summary["full"]["states"]
    assert all(value.isfinite().all() for value in load_file(run / "model/model.safetensors").values())


def test_watcher_is_told_of_everything_in_order(tmp_path: Path) -> None:
    told: list[str] = []

    class Listener(Watcher):
        def started(self, run: Run) -> None:
            told.append("started")

        def stepped(self, run: Run, row: dict[str, float]) -> None:
            told.append(f"stepped {run.step}")

        def evaluated(self, run: Run, row: dict[str, float]) -> None:
            told.append(f"evaluated {run.step}")

        def happened(self, run: Run, event: Event) -> None:
            told.append(f"{event.kind} {run.step}")

        def finished(self, run: Run) -> None:
            told.append("finished")

    train(small_config(train={"steps": 10}), tmp_path / "run", watcher=Listener())
    assert told == ["started", "stepped 5", "cut 8", "stepped 10", "evaluated 10", "finished"]


def test_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=f"gramian train --resume {tmp_path}"):
        train(small_config(), tmp_path)
    with pytest.raises(CheckpointError, match="already holds something"):
        train(small_config(), tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ({"train": {"batch_size": 5000}}, DataError),
        ({"train": {"seed": -1}}, ConfigError),
        ({"data": {"name": "digitz"}}, ConfigError),
        ({"model": {"r_min": 0.95, "r_max": 0.9}}, ConfigError),
        ({"train": {"device": "abacus"}}, ConfigError),
        pytest.param(
            {"train": {"device": "cuda"}},
            ConfigError,
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what is asked for"),
        ),
    ],
)
def test_run_that_cannot_be_built_writes_nothing(
    tmp_path: Path, sections: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        train(small_config(**sections), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
