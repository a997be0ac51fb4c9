"""A run that is killed and resumed writes the same bits as one that never was; dropout makes the generators matter."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_runs import (
    GRAMIAN,
    ONE_THREAD,
    PullThePlug,
    Stopped,
    assert_same_run,
    finished,
    gramian,
    journal,
    last_checkpoint,
    small_config,
    wait_for,
    written_config,
)
from torch import nn

import gramian.lab.train as train_module
from gramian.errors import CheckpointError, ConfigError
from gramian.lab.data import Split
from gramian.lab.files import JsonLines
from gramian.lab.run import Run
from gramian.lab.train import train
from gramian.layers.reducible import reducible_layers

# Cuts far apart, so that there is time to look, and shoot, between them.
KILLED: dict[str, Any] = {
    "train": {"steps": 120, "log_every": 1, "eval_every": 20, "checkpoint_every": 7, "batch_size": 64},
    "compress": {"schedule": {"at": [40, 90]}, "analyze_every": 15},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("uninterrupted") / "run", **KILLED)


def last_step(run: Path) -> int:
    rows = JsonLines(run / "metrics.jsonl").rows()
    return rows[-1]["step"] if rows else 0


@pytest.mark.parametrize(("look", "cuts"), [(10, 0), (50, 1)], ids=["before a cut", "after a cut"])
def test_killed_run_resumes_bit_by_bit(tmp_path: Path, uninterrupted: Path, look: int, cuts: int) -> None:
    run, config = tmp_path / "run", written_config(tmp_path / "c.yaml", **KILLED)
    with subprocess.Popen(
        [*GRAMIAN, "train", str(config), "--run", str(run)], env=ONE_THREAD, stdout=subprocess.DEVNULL
    ) as process:
        wait_for(lambda: last_step(run) >= look, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert len(journal(run, "events.jsonl")) == cuts
    assert last_checkpoint(run)["step"] < 120
    assert not (run / "summary.json").exists()
    if cuts:
        gramian("train", "--resume", run, cwd=tmp_path)
    else:
        train(None, run, resume=True)
    assert_same_run(run, uninterrupted)


KILLED_WHILE_IT_WRITES = """
import os, signal
from pathlib import Path
import gramian.lab.run as run_module
from gramian.lab.config import load_config
from gramian.lab.train import train

write = run_module.write_tree

def half_written(folder, tree):
    if tree["step"] == 30:
        (folder / "tree.json").write_text("{")
        os.kill(os.getpid(), signal.SIGKILL)
    write(folder, tree)

run_module.write_tree = half_written
train(load_config("c.yaml", ["name=small"]), Path("run"))
"""


def test_run_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(tmp_path: Path) -> None:
    written_config(tmp_path / "c.yaml")
    done = subprocess.run([*GRAMIAN[:2], KILLED_WHILE_IT_WRITES], cwd=tmp_path, env=ONE_THREAD, check=False)
    assert done.returncode == -signal.SIGKILL
    run = tmp_path / "run"
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".step_00000030")]
    assert last_checkpoint(run)["step"] == 20
    train(None, run, resume=True)
    assert_same_run(run, finished(tmp_path / "through"))


def interrupted_everywhere(folder: Path, sections: dict[str, Any], rows: list[int]) -> Path:
    """A run whose plug is pulled after so many rows, again and again, and that is resumed every time."""
    for attempt, count in enumerate(rows):
        with pytest.raises(Stopped):
            train(
                small_config(**sections) if attempt == 0 else None,
                folder,
                resume=attempt > 0,
                watcher=PullThePlug(count),
            )
    train(None, folder, resume=True)
    return folder


def test_run_that_is_stopped_again_and_again_is_the_same_run(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"train": {"log_every": 1, "checkpoint_every": 3}}
    through = finished(tmp_path / "through", **sections)
    run = interrupted_everywhere(tmp_path / "run", sections, [2, 5, 3, 9, 4, 8, 14])
    assert_same_run(run, through)


def test_half_a_line_and_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    through, run = finished(tmp_path / "through"), tmp_path / "run"
    with pytest.raises(Stopped):
        train(small_config(), run, watcher=PullThePlug(7))
    assert journal(run, "metrics.jsonl")[-1]["step"] == 35
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 36, "train/lo')
    assert Run.resume(run).step == 30
    assert max(row["step"] for row in journal(run, "metrics.jsonl")) == 30
    train(None, run, resume=True)
    assert_same_run(run, through)


def test_waiting_for_stability_survives_a_resume(tmp_path: Path) -> None:
    sections: dict[str, Any] = {
        "train": {"log_every": 1, "checkpoint_every": 3, "lr": 1e-3},
        "compress": {
            "schedule": {"when_stable": {"every": 4, "until": 36, "overlap": 0.2, "change": 0.5, "checks": 2}},
            "analyze_every": None,
        },
    }
    through = finished(tmp_path / "through", **sections)
    kinds = [(event["step"], event["kind"]) for event in journal(through, "events.jsonl")]
    assert [step for step, _ in kinds] == list(range(4, 40, 4))
    assert [kind for _, kind in kinds[:4]] == ["skipped", "skipped", "cut", "skipped"]
    assert_same_run(interrupted_everywhere(tmp_path / "run", sections, [6, 4, 5, 11]), through)


@pytest.mark.parametrize("then", ["cautious", "stop"])
def test_watch_over_a_cut_survives_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    monkeypatch.setattr(train_module, "evaluate", falls_below(9))
    sections: dict[str, Any] = {
        "train": {"steps": 32, "log_every": 1, "eval_every": 4, "checkpoint_every": 3},
        "compress": {
            "policy": {"shrink": {"by": 0.5}},
            "schedule": {"at": [8, 20]},
            "rollback": {"drop": 0.0, "then": then, "patience": 2},
        },
    }
    through = finished(tmp_path / "through", **sections)
    kinds = [(event["step"], event["kind"]) for event in journal(through, "events.jsonl")]
    assert kinds == [(8, "cut"), (16, "rolled_back")] + ([(20, "cut")] if then == "cautious" else [])
    assert any(last_checkpoint(through)["snapshot"]["optimizer"]["states"])
    # In turn: before the cut, while it is watched (twice), after the roll-back, after the second cut.
    assert_same_run(interrupted_everywhere(tmp_path / "run", sections, [7, 5, 3, 9, 12]), through)


def falls_below(states: int) -> Callable[..., dict[str, float]]:
    """An evaluation in which a model with fewer states is a bad one."""

    def look(model: nn.Module, split: Split) -> dict[str, float]:
        (layer,) = reducible_layers(model).values()
        return {"accuracy": 0.9 if layer.d_state >= states else 0.1, "loss": 1.0}

    return look


def test_finished_run_that_is_resumed_stays_as_it_is(tmp_path: Path) -> None:
    run, through = finished(tmp_path / "run"), finished(tmp_path / "through")
    train(None, run, resume=True)
    assert_same_run(run, through)


def test_what_is_no_run_folder_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no run folder: it has no config\.yaml"):
        train(None, tmp_path / "nothing", resume=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[1", "model: {d_modle: 3}"])
def test_run_with_a_damaged_configuration_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ConfigError):
        train(None, tmp_path, resume=True)


@pytest.mark.parametrize("name", ["tree.json", "tensors.safetensors"])
def test_damaged_checkpoint_is_refused_by_file_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(Stopped):
        train(small_config(), tmp_path / "run", watcher=PullThePlug(3))
    path = tmp_path / "run" / "checkpoints" / "step_00000010" / name
    path.write_bytes(path.read_bytes()[:50])
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match=name):
        train(None, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == rows
    assert json.loads(rows.splitlines()[-1])["step"] == 15
