"""The largest share of a training that cuts can have, where the training is too long to be run."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from torch.nn import functional as F

from gramian.lab.build import build_schedule
from gramian.lab.compress_config import PolicyConfig, ScheduleConfig
from gramian.lab.config import Config, load_config
from gramian.lab.data import DATASETS
from gramian.lab.evaluate import predictions
from gramian.lab.run import Run

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
        return [f"data.root={write_noise(folder)}"]
    return [] if config.data.root is None else ["data.root=null"]


def largest_share(name: str) -> dict[str, Any]:
    """All looks as if each was at the model of full size, over all steps as if each had an eighth of the states.

    One look is made after the first step and cuts every layer to an eighth, so that both are measured; the time of
    evaluations is left out. The true share is smaller as long as more than an eighth is kept.
    """
    config = load_config(name)
    assert config.compress is not None
    once = {
        "policy": PolicyConfig.model_validate({"rank": {"n": max(1, min(config.model.d_states) // 8)}}),
        "schedule": ScheduleConfig.model_validate({"at": [1]}),
    }
    with tempfile.TemporaryDirectory() as folder:
        runnable = load_config(name, stand_in(config, Path(folder)))
        cut_once = config.compress.model_copy(update=once)
        run = Run(runnable.model_copy(update={"compress": cut_once}), Path(folder) / "run")
    before = sum(run.sizes.values())
    assert run.compressor is not None
    _seconds_of_a_step(run, 0)
    event = run.compressor.step()
    _seconds_of_a_step(run, 1)
    step = median(_seconds_of_a_step(run, 2 + i) for i in range(_TIMED))
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


def _seconds_of_a_step(run: Run, i: int) -> float:
    inputs, targets = run.batches.batch(i)
    run.model.train()
    start = time.perf_counter()
    F.cross_entropy(*predictions(run.model, inputs, targets)).backward()
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start
