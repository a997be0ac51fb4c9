"""A whole run: what it writes, what it selects by, and how it stops, goes on and goes back."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_runs import (
    GRAMIAN,
    ONE_THREAD,
    PullThePlug,
    Stopped,
    assert_same_run,
    finished,
    journal,
    last_checkpoint,
    same,
    small_config,
    wait_for,
    written_config,
)
from torch import nn

import gramian.lab.run as run_module
import gramian.lab.summary as summary_module
import gramian.lab.train as train_module
from gramian.compression.records import Event
from gramian.errors import CheckpointError, ConfigError, DataError
from gramian.lab.config import load_config
from gramian.lab.data import Split, load_data
from gramian.lab.evaluate import evaluate
from gramian.lab.files import read_json
from gramian.lab.run import Run
from gramian.lab.saved_model import load_model
from gramian.lab.train import Interrupted, Watcher, train
from gramian.layers.reducible import reducible_layers


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("small") / "run")


def rows_with(run: Path, key: str) -> list[dict[str, Any]]:
    return [row for row in journal(run, "metrics.jsonl") if key in row]


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


def test_selected_model_is_the_best_on_validation_since_the_last_cut(run: Path) -> None:
    final = read_json(run / "summary.json")["now"]["states"]
    candidates = [row for row in rows_with(run, "eval/accuracy") if row["state/total"] == final]
    best = max(candidates, key=lambda row: row["eval/accuracy"])
    summary = read_json(run / "summary.json")
    assert summary["selected_step"] == best["step"] == read_json(run / "model" / "config.json")["step"]
    assert summary["now"]["valid"] == {"accuracy": best["eval/accuracy"], "loss": best["eval/loss"]}


def test_scores_of_the_summary_are_those_of_the_saved_model(run: Path) -> None:
    model, data, now = load_model(run).model, load_data("digits"), read_json(run / "summary.json")["now"]
    assert evaluate(model, data.valid) == now["valid"]
    assert evaluate(model, data.test) == now["test"]


def test_same_seed_gives_the_same_bits_and_another_seed_does_not(run: Path, tmp_path: Path) -> None:
    assert_same_run(run, finished(tmp_path / "again"))
    other = finished(tmp_path / "other", train={"seed": 4})
    assert journal(other, "metrics.jsonl") != journal(run, "metrics.jsonl")


def test_test_data_is_looked_at_once_after_training_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data("digits")
    names = {id(split): name for name, split in data.splits.items()}
    looks: list[str] = []

    def watched(where: str) -> Callable[..., dict[str, float]]:
        def look(model: nn.Module, split: Split) -> dict[str, float]:
            looks.append(f"{where} {names[id(split)]}")
            return evaluate(model, split)

        return look

    monkeypatch.setattr(run_module, "build_data", lambda _: data)
    monkeypatch.setattr(train_module, "evaluate", watched("training"))
    monkeypatch.setattr(summary_module, "evaluate", watched("summary"))
    finished(tmp_path / "run")
    assert looks == ["training valid"] * 4 + ["summary valid", "summary test"]


def test_test_data_has_no_influence_on_anything_but_the_test_score(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_data("digits")
    noise = Split(torch.randn_like(data.test.inputs), data.test.targets.roll(1))
    monkeypatch.setattr(run_module, "build_data", lambda _: dataclasses.replace(data, test=noise))
    other = finished(tmp_path / "run")
    for name in ("metrics.jsonl", "events.jsonl"):
        assert journal(other, name) == journal(run, name)
    assert (other / "model/model.safetensors").read_bytes() == (run / "model/model.safetensors").read_bytes()
    one, two = (read_json(folder / "summary.json") for folder in (run, other))
    assert one["selected_step"] == two["selected_step"]
    assert one["now"]["valid"] == two["now"]["valid"]
    assert one["now"]["test"] != two["now"]["test"]


def test_cut_at_the_last_step_is_in_the_model_that_is_kept(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", train={"steps": 12, "eval_every": 6}, compress={"schedule": {"at": [12]}})
    (event,) = journal(run, "events.jsonl")
    after = event["layers"][0]["after"]
    assert after < 12
    assert load_model(run).config["model"]["d_state"] == [after]
    summary = read_json(run / "summary.json")
    assert summary["now"]["states"] == after
    last = rows_with(run, "eval/accuracy")[-1]
    assert (last["step"], last["state/total"]) == (12, after)
    assert summary["now"]["valid"]["accuracy"] == last["eval/accuracy"]


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


class PressCtrlC(Watcher):
    """Presses Ctrl-C so often when the row of a step is logged."""

    def __init__(self, step: int, times: int = 1) -> None:
        self.step, self.times = step, times

    def stepped(self, run: Run, row: dict[str, float]) -> None:
        if run.step == self.step:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("step", [5, 15, 35])
def test_run_stopped_by_ctrl_c_goes_on_as_if_nothing_had_happened(run: Path, tmp_path: Path, step: int) -> None:
    folder, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=f"stopped at step {step}; continue with: gramian train --resume {folder}"):
        train(small_config(), folder, watcher=PressCtrlC(step))
    assert signal.getsignal(signal.SIGINT) is before
    assert last_checkpoint(folder)["step"] == step
    assert not (folder / "summary.json").exists()
    train(None, folder, resume=True)
    assert_same_run(folder, run)


def test_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(small_config(), tmp_path / "run", watcher=PressCtrlC(5, times=2))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_ctrl_c_in_the_last_step_comes_too_late(run: Path, tmp_path: Path) -> None:
    train(small_config(), tmp_path / "run", watcher=PressCtrlC(40))
    assert_same_run(tmp_path / "run", run)


def test_ctrl_c_ends_the_command_with_130_and_resume_finishes_it(tmp_path: Path) -> None:
    steps = 250
    config = written_config(tmp_path / "c.yaml", train={"steps": steps, "checkpoint_every": 1000, "eval_every": 125})
    command = [*GRAMIAN, "train", str(config), "--run", "run"]
    with subprocess.Popen(command, cwd=tmp_path, env=ONE_THREAD, stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: bool(journal(tmp_path / "run", "metrics.jsonl")), process)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    stopped = last_checkpoint(tmp_path / "run")["step"]
    assert not (tmp_path / "run" / "summary.json").exists()
    assert 5 <= stopped < steps
    assert f"stopped at step {stopped}; continue with: gramian train --resume run" in " ".join(said.split())
    assert train(None, tmp_path / "run", resume=True)["steps"] == steps
    assert [row["step"] for row in rows_with(tmp_path / "run", "train/loss")] == list(range(5, steps + 5, 5))


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


def test_plug_pulled_before_the_first_checkpoint_means_to_begin_anew(run: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(small_config(), tmp_path / "run", watcher=PullThePlug(2))
    train(None, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", run)


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
