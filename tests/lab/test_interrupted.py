"""A run that is stopped: by Ctrl-C, or before it has written anything to go on from."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from small_runs import (
    GRAMIAN,
    ONE_THREAD,
    PullThePlug,
    Stopped,
    assert_same_run,
    journal,
    last_checkpoint,
    rows_with,
    small_config,
    wait_for,
    written_config,
)

from gramian.lab.run import Run
from gramian.lab.train import Interrupted, Watcher, train


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


def test_plug_pulled_before_the_first_checkpoint_means_to_begin_anew(run: Path, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(small_config(), tmp_path / "run", watcher=PullThePlug(2))
    train(None, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", run)
