"""A cut that costs too much is undone, bit by bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small_models import SmallNet, everything, identical, make_net, set_random_numbers, through_a_file, train_step
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from gramian.compression.compressor import Compressor
from gramian.compression.policies import Energy, Policy, Rank, Shrink
from gramian.compression.records import Event
from gramian.compression.rollback import RollBack, restore, snapshot
from gramian.compression.schedules import At, Every, Schedule
from gramian.errors import GramianError
from gramian.layers.reducible import resize_like_


class Run:
    """A training run with a scheduler, of which metrics are made up."""

    def __init__(
        self,
        policy: Policy = Shrink(0.5),  # noqa: B008 - a frozen value
        schedule: Schedule = At([3]),  # noqa: B008 - never changed
        make: Any = lambda p: AdamW(p, 1e-3, amsgrad=True),
        seed: int = 0,
        **rollback: Any,
    ) -> None:
        self.model = make_net(seed=seed)
        self.optimizer: Optimizer = make(self.model.parameters())
        self.scheduler = CosineAnnealingLR(self.optimizer, T_max=20)
        self.compressor = Compressor(
            self.model,
            self.optimizer,
            policy=policy,
            schedule=schedule,
            rollback=RollBack(**{"drop": 0.02, "also": (self.scheduler,), **rollback}),
        )

    def train(self) -> None:
        train_step(self.model, self.optimizer)
        self.scheduler.step()

    def step(self, metric: float | None = None) -> Event:
        self.train()
        return self.compressor.step(metric)

    def everything(self) -> dict[str, Any]:
        return everything(self.model, self.optimizer, self.scheduler)

    def until_cut(self, metric: float = 0.9) -> dict[str, Any]:
        """Train up to the first cut; everything as it was just before it."""
        for _ in range(30):
            self.train()
            before = self.everything()
            if self.compressor.step(metric).kind == "cut":
                return before
        raise AssertionError("nothing was cut")


MAKES = {
    "AdamW": lambda p: AdamW(p, 1e-3, amsgrad=True),
    "fused": lambda p: AdamW(p, 1e-3, fused=True),
    "SGD": lambda p: SGD(p, 1e-3, momentum=0.9),
}


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


@pytest.mark.parametrize("metric", [0.88, 0.9, 0.95])
def test_a_metric_within_the_drop_confirms_the_cut(metric: float) -> None:
    run = Run(drop=0.02 + 1e-12)
    run.until_cut(0.9)
    assert run.step(metric).kind == "none"
    for _ in range(3):
        assert run.step(0.0).kind == "none"  # later losses are not the cut's
    assert run.compressor.d_states == {"layers.0.lru": 6, "layers.1.lru": 4}


def test_the_mark_is_the_last_metric_before_the_cut() -> None:
    run = Run(schedule=At([4]))
    run.step(0.95)
    run.step(0.5)
    run.step()
    run.step()
    assert run.compressor.d_states["layers.0.lru"] == 6
    assert run.step(0.49).kind == "none"
    other = Run(schedule=At([2]))
    other.step(0.5)
    assert other.step(0.95).kind == "cut"
    assert other.step(0.9).kind == "rolled_back"


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_is_how_many_bad_reports_in_a_row_are_one_too_many(patience: int) -> None:
    run = Run(patience=patience)
    run.until_cut()
    for _ in range(patience - 1):
        assert run.step(0.1).kind == "none"
        assert run.step().kind == "none"
    assert run.step(0.1).kind == "rolled_back"


def test_one_good_report_ends_the_watch_whatever_came_before() -> None:
    run = Run(patience=3)
    run.until_cut()
    for metric in (0.1, 0.1, 0.9, 0.1, 0.1, 0.1):
        assert run.step(metric).kind == "none"


@pytest.mark.parametrize(("better", "bad", "good"), [("higher", 0.8, 1.5), ("lower", 1.5, 0.8)])
def test_better_says_which_way_a_metric_falls(better: str, bad: float, good: float) -> None:
    for metric, kind in ((bad, "rolled_back"), (good, "none")):
        run = Run(better=better)
        run.until_cut(0.9)
        assert run.step(metric).kind == kind


@pytest.mark.parametrize("better", ["higher", "lower"])
@pytest.mark.parametrize("metric", [float("nan"), float("inf")])
def test_a_metric_that_is_no_number_rolls_back(metric: float, better: str) -> None:
    run = Run(better=better)
    before = run.until_cut()
    event = run.step(-metric if better == "higher" else metric)
    assert event.kind == "rolled_back"
    assert identical(run.everything(), before)


def test_cautious_cuts_half_as_much_after_each_roll_back() -> None:
    run = Run(Shrink(0.5), Every(2, until=40))
    for by, sizes in ((0.5, (6, 4)), (0.25, (9, 6)), (0.125, (10, 7))):  # round(10.5), round(7)
        assert run.compressor.policy == Shrink(by)
        run.until_cut()
        assert tuple(run.compressor.d_states.values()) == sizes
        event = run.step(0.0)
        assert event.reason.endswith(f"goes on with {Shrink(by / 2)}")


def test_stop_makes_no_more_cuts() -> None:
    run = Run(Shrink(0.5), Every(2, until=40), then="stop")
    run.until_cut()
    assert run.step(0.0).reason.endswith("; no more cuts")
    assert run.compressor.policy is None
    assert {run.step(0.9).kind for _ in range(6)} == {"none"}
    assert run.compressor.d_states == {"layers.0.lru": 12, "layers.1.lru": 8}


def test_a_policy_that_cannot_be_more_cautious_stops() -> None:
    run = Run(Rank(4), Every(2, until=40), then="cautious")
    run.until_cut()
    assert run.step(0.0).reason.endswith("; no more cuts")
    assert {run.step(0.9).kind for _ in range(6)} == {"none"}


def test_no_further_cut_is_made_before_the_last_one_is_confirmed() -> None:
    run = Run(Shrink(0.25), Every(2, until=40))
    run.until_cut()  # at step 2
    assert run.step().kind == "none"
    event = run.step()
    assert (event.kind, event.reason) == (
        "skipped",
        "the cut at step 2 is not confirmed yet: waiting for step(metric=...)",
    )
    assert run.step(0.9).kind == "none"
    assert run.step().kind == "cut"


def test_a_metric_is_needed_before_the_first_cut() -> None:
    run = Run(schedule=At([1, 3]))
    event = run.step()
    assert (event.kind, event.reason) == (
        "skipped",
        "a roll-back needs the metric before the first cut: call step(metric=...)",
    )
    assert run.step(0.9).kind == "none"
    assert run.step().kind == "cut"


def test_without_a_roll_back_a_metric_is_ignored() -> None:
    model = make_net()
    compressor = Compressor(model, policy=Shrink(0.5), schedule=At([1]))
    assert compressor.step(0.9).kind == "cut"
    assert compressor.step(float("nan")).kind == "none"


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


def test_a_snapshot_from_before_the_first_step_forgets_later_state() -> None:
    run = Run()
    before, saved = run.everything(), snapshot(run.model, run.optimizer, (run.scheduler,))
    run.train()
    restore(saved, run.model, run.optimizer, (run.scheduler,))
    assert identical(run.everything(), before)
    assert not run.optimizer.state


@pytest.mark.parametrize(
    "wrong", [{"drop": -0.1}, {"patience": 0}, {"better": "more"}, {"then": "panic"}, {"drop": float("nan")}]
)
def test_a_roll_back_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(GramianError, match="needed"):
        RollBack(**{"drop": 0.1, **wrong})


def test_energy_becomes_cautious_too() -> None:
    run = Run(Energy(0.3), Every(2, until=40))
    run.until_cut()
    run.step(0.0)
    assert run.compressor.policy == Energy(0.15)
