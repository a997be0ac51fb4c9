"""Runs that take a second: eight-by-eight digits, a dozen states, forty steps, two cuts. And how to compare two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from gramian.lab.config import Config, validated
from gramian.lab.files import JsonLines, read_json, read_tree
from gramian.lab.run import Run
from gramian.lab.train import Watcher, train

Tree = dict[str, Any]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
WITHOUT_A_PAPER = {"copying-few", "copying-four", "mqar-long", "mqar-many"}  # experiments of our own, at one scale
GRAMIAN = [sys.executable, "-c", "from gramian.cli import main; main()"]


def small_content(**sections: Tree | None) -> Tree:
    """A small configuration, with keys of its sections replaced; None leaves a section out."""
    content: Tree = {
        "name": "small",
        "model": {"d_model": 6, "d_state": 12, "dropout": 0.2},
        "data": {"name": "digits"},
        "train": {
            "steps": 40,
            "batch_size": 32,
            "lr": 5e-3,
            "seed": 3,
            "log_every": 5,
            "eval_every": 10,
            "checkpoint_every": 10,
        },
        "compress": {
            "policy": {"energy": {"tau": 0.1}},
            "schedule": {"at": [8, 16]},
            "analyze_every": 12,
            "analyze_share": None,
        },
    }
    for name, changes in sections.items():
        content[name] = None if changes is None else {**content[name], **changes}
    return content


def small_config(**sections: Tree | None) -> Config:
    """The validated configuration of `small_content`."""
    return validated(small_content(**sections))


def written_config(path: Path, **sections: Tree | None) -> Path:
    """The configuration of `small_content` as a YAML file."""
    path.write_text(yaml.safe_dump(small_content(**sections)))
    return path


class Stopped(Exception):
    """Somebody pulled the plug."""


class PullThePlug(Watcher):
    """Ends a run without any warning right after the row number `rows` was logged: nothing more is written."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def stepped(self, run: Run, row: dict[str, float]) -> None:
        self.rows -= 1
        if not self.rows:
            raise Stopped


def without_seconds(node: Any) -> Any:
    """The same content without what a clock said."""
    if isinstance(node, dict):
        clocks = ("seconds", "train/steps_per_second", "started_at")
        return {key: without_seconds(value) for key, value in node.items() if key not in clocks}
    return [without_seconds(value) for value in node] if isinstance(node, list) else node


def journal(run: Path, name: str) -> list[Tree]:
    """The rows of a journal, without what a clock said."""
    return [without_seconds(row) for row in JsonLines(run / name).rows()]


def rows_with(run: Path, key: str) -> list[Tree]:
    """The rows of the metrics that tell `key`."""
    return [row for row in journal(run, "metrics.jsonl") if key in row]


def last_checkpoint(run: Path) -> Tree:
    """The state in the last checkpoint of a run."""
    return read_tree(max((run / "checkpoints").glob("step_*")))


def same(a: Any, b: Any) -> bool:
    """Equal in content, order and type, bit for bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def assert_same_run(run: Path, other: Path) -> None:
    """The two runs wrote the same bits, but for what a clock said."""
    for name in ("metrics.jsonl", "events.jsonl"):
        assert journal(run, name) == journal(other, name)
    for name in ("config.yaml", "model/model.safetensors", "model/config.json", "spectra.safetensors"):
        if (run / name).exists() or (other / name).exists():
            assert (run / name).read_bytes() == (other / name).read_bytes(), name
    one, two = (without_seconds(last_checkpoint(folder)) for folder in (run, other))
    for state in (one, two):  # no step uses these two generators, and nobody seeds them: every process has its own
        del state["snapshot"]["random"]["python"], state["snapshot"]["random"]["numpy"]
    assert one["step"] == two["step"]
    for key in one:
        assert same(one[key], two[key]), f"the last checkpoints differ in '{key}'"
    assert _results(run) == _results(other)


def _results(run: Path) -> Tree:
    timed = ("step_seconds", "step_time_ratio", "cuts_seconds")
    summary = without_seconds(read_json(run / "summary.json"))
    return {
        key: {k: v for k, v in value.items() if k not in timed} if isinstance(value, dict) else value
        for key, value in summary.items()
        if key not in timed
    }


def finished(folder: Path, **sections: Tree | None) -> Path:
    """A small run that was trained to its end."""
    train(small_config(**sections), folder)
    return folder


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until something is so; not longer than a minute, and not after the process has ended."""
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, "the process ended too early"
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)


def gramian(*arguments: object, cwd: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    done = subprocess.run(
        [*GRAMIAN, *map(str, arguments)], cwd=cwd, env=ONE_THREAD, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def python(code: str, cwd: Path) -> Any:
    """What a new Python process prints as JSON on its last line."""
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=ONE_THREAD, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
