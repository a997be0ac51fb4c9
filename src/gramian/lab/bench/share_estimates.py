"""The largest share of a training that cuts can have, where the training is too long to be run."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gramian.lab.bench.settings import CannotRun
from gramian.lab.build import build_schedule
from gramian.lab.compress_config import PolicyConfig, ScheduleConfig
from gramian.lab.config import Config, load_config
from gramian.lab.data import DATASETS
from gramian.lab.run import Run
from gramian.lab.train import optimize

__all__ = ["largest_share", "stand_in", "write_noise"]

_RECORDS = 1000  # photographs in each of the six files
_TIMED = 3  # steps


def write_noise(folder: Path) -> Path:
    """CIFAR-10's binary release with bytes from a random number generator; the folder to give as root."""
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = rng.integers(0, 256, (_RECORDS, 1 + 3 * 32 * 32), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / f"{name}.bin")
    return folder


def stand_in(config: Config, folder: Path) -> list[str]:
    """Overrides that let `config` run without the user's files: noise in `folder`, or the data that is bundled."""
    if DATASETS[config.data.name].needs_files:
        assert config.data.name in ("cifar10", "cifar10-gray")
        return [f"data.root={write_noise(folder)}"]
    return [] if config.data.root is None else ["data.root=null"]


def largest_share(name: str) -> dict[str, Any]:
    """All looks as if each was at the model of full size, over all steps as if every layer had one state only.

    One look is made after the first step and cuts to one state, so that both are measured; the time of evaluations is
    left out.

    Raises
    ------
    CannotRun
        If that look cut nothing.
    """
    config = load_config(name)
    assert config.compress is not None
    with tempfile.TemporaryDirectory() as folder:
        run = Run(_cut_once(load_config(name, stand_in(config, Path(folder)))), Path(folder) / "run")
    before = sum(run.sizes.values())
    assert run.compressor is not None
    _seconds_of_a_step(run)
    event = run.compressor.step()
    if not event.changed:
        raise CannotRun(f"the look cut nothing: {event.reason}")
    _seconds_of_a_step(run)
    step = median(_seconds_of_a_step(run) for _ in range(_TIMED))
    looks = len(build_schedule(config.compress.schedule).steps)
    cuts, steps = looks * event.seconds, config.train.steps * step
    return {
        "layer": config.model.layer,
        "before": before,
        "after": sum(run.sizes.values()),
        "looks": looks,
        "look_seconds": event.seconds,
        "steps": config.train.steps,
        "step_seconds": step,
        "share": cuts / (cuts + steps),
    }


def _cut_once(config: Config) -> Config:
    """To one state, after the first step."""
    assert config.compress is not None
    policy, schedule = PolicyConfig.model_validate({"rank": {"n": 1}}), ScheduleConfig.model_validate({"at": [1]})
    update = {"policy": policy, "schedule": schedule, "rollback": None}
    return config.model_copy(update={"compress": config.compress.model_copy(update=update)})


def _seconds_of_a_step(run: Run) -> float:
    start = time.perf_counter()
    optimize(run)
    run.step += 1
    return time.perf_counter() - start
