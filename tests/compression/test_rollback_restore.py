"""After a roll-back everything is what it was, also in a resumed run."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small_models import SmallNet, identical, set_random_numbers, through_a_file, train_step
from watched_runs import MAKES, Run

from gramian.compression.policies import Rank, Shrink
from gramian.compression.rollback import restore, snapshot
from gramian.compression.schedules import Every
from gramian.layers.reducible import resize_like_


@pytest.mark.parametrize("name", MAKES)
def test_a_fallen_metric_brings_everything_back_bit_by_bit(name: str) -> None:
    run = Run(make=MAKES[name])
    parameters = {n: id(p) for n, p in run.model.named_parameters()}
    groups = [id(group) for group in run.optimizer.param_groups]
    before = run.until_cut()
    assert not identical(run.everything(), before)
    assert run.compressor.kept
    for _ in range(3):
        assert run.step().kind == "none"
    event = run.step(metric=0.85)
    assert (event.kind, event.changed, event.step, event.resume_at) == ("rolled_back", True, 7, 3)
    assert "the metric was 0.85 after the cut at step 3, 0.9 before (allowed: 0.02)" in event.reason
    after = run.everything()
    assert before.keys() == after.keys() >= {"model", "optimizer", "others", "torch", "numpy", "python"}
    for part in before:
        assert identical(after[part], before[part]), part
    assert any("running_mean" in key for key in before["model"])
    assert run.compressor.steps == 3
    assert run.compressor.kept == {}
    assert {n: id(p) for n, p in run.model.named_parameters()} == parameters
    assert [id(group) for group in run.optimizer.param_groups] == groups
    assert all(p.grad is None for p in run.model.parameters())


def test_after_a_roll_back_training_goes_on_as_if_nothing_had_been_cut() -> None:
    run, control = Run(then="stop"), Run(then="stop")
    start = copy.deepcopy(run.everything())
    run.until_cut()
    run.step()
    assert run.step(metric=0.1).kind == "rolled_back"
    for _ in range(4):
        assert run.step(metric=0.1).kind == "none"
    result = run.everything()
    set_random_numbers(start)
    for _ in range(7):
        control.train()
    assert identical(control.everything(), result)


def test_a_second_cut_is_rolled_back_to_the_first() -> None:
    run = Run(Shrink(0.25), Every(2, until=20))
    run.until_cut()
    kept = dict(run.compressor.kept)
    run.train()
    assert run.compressor.step(0.9).kind == "none"  # confirmed
    run.train()
    before = run.everything()
    assert run.compressor.step(0.9).kind == "cut"
    assert run.compressor.kept != kept
    assert run.compressor.d_states == {"layers.0.lru": 7, "layers.1.lru": 4}
    assert run.step(0.0).kind == "rolled_back"
    assert run.compressor.d_states == {"layers.0.lru": 9, "layers.1.lru": 6}
    assert run.compressor.kept == kept
    assert identical(run.everything(), before)


def resumed(run: Run) -> Run:
    """The same run in a new process, from files."""
    saved = through_a_file(
        {
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "scheduler": run.scheduler.state_dict(),
            "compressor": run.compressor.state_dict(),
        }
    )
    twin = Run(run.compressor._planned_policy, run.compressor.schedule, seed=9)
    load(twin.model, saved["model"])
    twin.optimizer.load_state_dict(saved["optimizer"])
    twin.scheduler.load_state_dict(saved["scheduler"])
    twin.compressor.load_state_dict(saved["compressor"])
    return twin


def load(model: SmallNet, state: dict[str, torch.Tensor]) -> None:
    resize_like_(model, state)
    model.load_state_dict(state)


def test_a_run_that_is_resumed_with_a_cut_on_watch_can_still_go_back() -> None:
    run = Run()
    before = run.until_cut()
    run.step()
    twin = resumed(run)
    assert twin.compressor.d_states == {"layers.0.lru": 6, "layers.1.lru": 4}
    twin.train()
    event = twin.compressor.step(0.1)
    assert (event.kind, event.step, event.resume_at) == ("rolled_back", 5, 3)
    assert identical(twin.everything(), before)
    assert twin.compressor.steps == 3
    train_step(twin.model, twin.optimizer)


def test_a_resumed_run_remembers_how_cautious_it_has_become() -> None:
    run = Run(Shrink(0.5), Every(2, until=40))
    for _ in range(2):
        run.until_cut()
        run.step(0.0)
    assert resumed(run).compressor.policy == run.compressor.policy == Shrink(0.125)
    stopped = Run(Rank(4))
    stopped.until_cut()
    stopped.step(0.0)
    assert resumed(stopped).compressor.policy is None


def test_the_state_does_not_change_when_bad_reports_come_in() -> None:
    run = Run(patience=5)
    run.until_cut()
    state = run.compressor.state_dict()
    run.step(0.0)
    assert state["watch"]["bad_reports"] == 0
    assert run.compressor.state_dict()["watch"]["bad_reports"] == 1


def test_a_snapshot_can_be_restored_more_than_once() -> None:
    run = Run()
    run.train()
    before, saved = run.everything(), snapshot(run.model, run.optimizer, (run.scheduler,))
    for _ in range(2):
        run.train()
        for layer in run.model.layers:
            layer.lru.apply_(layer.lru.propose(3)) if layer.lru.d_state > 3 else None
        run.optimizer.state.clear()
        run.train()
        restore(saved, run.model, run.optimizer, (run.scheduler,))
        assert identical(run.everything(), before)


class Position:
    """Where a sampler is in the data; its state is the very list it goes on to change."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def test_objects_that_hand_out_their_own_state_are_brought_back_too() -> None:
    position = Position()
    run = Run(also=(position,))
    position.seen += [1, 2]
    saved = snapshot(run.model, run.optimizer, (position,))
    for _ in range(2):
        position.seen += [3]
        restore(saved, run.model, run.optimizer, (position,))
        assert position.seen == [1, 2]


def test_a_snapshot_from_before_the_first_step_forgets_later_state() -> None:
    run = Run()
    before, saved = run.everything(), snapshot(run.model, run.optimizer, (run.scheduler,))
    run.train()
    restore(saved, run.model, run.optimizer, (run.scheduler,))
    assert identical(run.everything(), before)
    assert not run.optimizer.state
