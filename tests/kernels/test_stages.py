"""Kernels one after the other, a piece at a time: every task is run once, after those of its piece before it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gramian.kernels.native import array, compiled, entry, run, run_with_workspace
from gramian.kernels.stages import Stage, launch_stages

EACH = 3


@compiled
def _double(index, args, real):
    """Two numbers for each one."""
    source, target = array(args[0], index + 1, real), array(args[1], 2 * index + 2, real)
    target[2 * index], target[2 * index + 1] = source[index], source[index] + 1


@entry
def double_entry(data):
    run(_double, data)


@compiled
def _multiply(index, worker, args, real):
    """By a number that goes through the worker's own memory."""
    values, own = array(args[0], index + 1, real), array(args[1], worker + 1, real)
    count = array(args[2], index + 1, np.int64(0))
    own[worker] = values[index]
    for _ in range(2000):  # long enough for the others to be at work
        own[worker] = own[worker] * 1.0
    values[index] = own[worker] * 10
    count[index] += 1


@entry
def multiply_entry(data):
    run_with_workspace(_multiply, data)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 1000])
def test_every_task_is_run_once_and_in_its_turn(pieces: int, dtype: torch.dtype, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    source = torch.arange(pieces * EACH, dtype=dtype)
    target, counts = torch.empty(2 * pieces * EACH, dtype=dtype), torch.zeros(2 * pieces * EACH, dtype=torch.int64)
    own, large = torch.empty(threads, dtype=dtype), torch.empty(5000)
    stages = [
        Stage(double_entry, EACH, (source, target, large)),  # a large tensor, so that threads are worth it
        Stage(multiply_entry, 2 * EACH, (target, own, counts)),
    ]
    launch_stages(stages, pieces, dtype)
    torch.set_num_threads(before)
    assert (counts == 1).all()
    assert torch.equal(target, 10 * torch.stack([source, source + 1], -1).flatten())


def test_one_stage_is_a_launch() -> None:
    source, target = torch.arange(4.0), torch.empty(8)
    launch_stages([Stage(double_entry, 1, (source, target))], 4, torch.float32)
    assert target.tolist() == [0, 1, 1, 2, 2, 3, 3, 4]
