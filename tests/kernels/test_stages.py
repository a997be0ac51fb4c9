"""Kernels one after the other, a piece at a time: every task is run once, after those of its piece before it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gramian.kernels import native as native_module
from gramian.kernels import stages as stages_module
from gramian.kernels.native import At, array, compiled, entry, run, run_with_workspace
from gramian.kernels.stages import Phase, Plan, Stage, independent, launch_stages

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


@compiled
def _leave(index, args, real):
    """Two numbers of a piece, in scratch memory from its second place on."""
    source, inside = array(args[0], index + 1, real), array(args[1], 4 * index + 2, real)
    inside[4 * index], inside[4 * index + 1] = source[index], args[2]


@entry
def leave_entry(data):
    run(_leave, data)


@compiled
def _take(index, args, real):
    inside, target = array(args[0], 4 * index + 3, real), array(args[1], index + 1, real)
    target[index] = inside[4 * index + 1] + inside[4 * index + 2]


@entry
def take_entry(data):
    run(_take, data)


@pytest.mark.parametrize(("threads", "entries"), [(1, 1), (2, 2), (3, 30)])
def test_a_worker_takes_its_pieces_through_one_entry_of_scratch_memory(threads: int, entries: int) -> None:
    """Numbers are not moved, whatever their value; where pieces are few for the threads, each has its own entry."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    pieces = 30 if threads < 3 else 10
    source, target, large = torch.arange(30.0), torch.empty(30), torch.empty(5000)
    scratch = torch.full((pieces, 4), -1.0)
    size = scratch.data_ptr() + 8 if threads == 2 else 7
    inside = scratch[:, 1:]
    stages = [
        Stage(leave_entry, 1, (source, At(inside), size, large)),
        Stage(take_entry, 1, (scratch, target, large)),
    ]
    launch_stages(stages, pieces, torch.float32, scratch=[scratch])
    torch.set_num_threads(before)
    assert torch.equal(target[:pieces], source[:pieces] + float(size))
    assert (scratch[:, 0] == -1).all()
    assert int((scratch[:, 1] != -1).sum()) <= min(entries, pieces)


@pytest.mark.parametrize("pieces", [1, 8])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_plan_is_launched_with_other_tensors_of_the_same_sizes(threads: int, pieces: int) -> None:
    """All pieces through all stages, or stage after stage; what lies in no tensor of the plan is used where it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    like, constant = torch.empty(pieces, 3), torch.full((5000,), 2.0)
    scratch = torch.empty(pieces, 4)
    stages = [
        Stage(leave_entry, 1, (At(like), At(scratch[:, 1:]), 7, constant)),
        Stage(take_entry, 1, (scratch, At(like.view(-1)[pieces:]), constant)),
    ]
    plan = Plan([Phase(stages, pieces, scratch=[scratch])], torch.float32, (like, scratch))
    del like, scratch
    for start in (0.0, 100.0):
        values, own = torch.arange(3.0 * pieces).view(pieces, 3) + start, torch.empty(pieces, 4)
        expected = values.view(-1)[:pieces] + 7
        plan.launch((values, own))
        assert torch.equal(values.view(-1)[pieces : 2 * pieces], expected)
    torch.set_num_threads(before)


@compiled
def _total(index, args, real):
    """Of all numbers, added to one."""
    values, target = array(args[0], args[1], real), array(args[2], index + 1, real)
    for k in range(args[1]):
        target[index] += values[k]


@entry
def total_entry(data):
    run(_total, data)


@pytest.mark.parametrize("openmp", [True, False])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_phase_that_waits_finds_everything_done_before(
    threads: int, openmp: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by phases that did not have to wait, and with threads that torch does not bring."""
    if not openmp:
        for module in (native_module, stages_module):
            monkeypatch.setattr(module, "openmp", lambda: None)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    pieces, large = 60, torch.empty(5000)
    source, values, counts = torch.arange(60.0), torch.empty(120), torch.zeros(120, dtype=torch.int64)
    own, first, second = torch.empty(threads), torch.zeros(5), torch.zeros(7)
    phases = [
        Phase([Stage(double_entry, 1, (source, values, large))], pieces),
        Phase([Stage(multiply_entry, 2, (values, own, counts))], pieces),
        *independent([Stage(total_entry, len(t), (values, 120, t)) for t in (first, second)], after=True),
    ]
    plan = Plan(phases, torch.float32)
    for _ in range(2):
        plan.launch()
    torch.set_num_threads(before)
    expected = 10 * float(2 * source.sum() + pieces)
    assert (counts == 2).all()
    assert (first == 2 * expected).all()
    assert (second == 2 * expected).all()
