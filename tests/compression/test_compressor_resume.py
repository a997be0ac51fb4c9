"""A compressor that is saved and loaded goes on as if it had not stopped."""

from __future__ import annotations

import pytest
from cut_runs import run, set_up
from small_models import SmallNet, everything, identical, make_net, set_random_numbers, through_a_file, without_seconds
from torch.optim import AdamW, Optimizer

from gramian.compression.compressor import Compressor
from gramian.compression.policies import Shrink
from gramian.compression.schedules import Every, WhenStable
from gramian.layers.reducible import resize_like_


def resumed(model: SmallNet, optimizer: Optimizer, compressor: Compressor) -> tuple[SmallNet, AdamW, Compressor]:
    """A new process: everything rebuilt from files, the random generators where they were."""
    saved = through_a_file(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "compressor": compressor.state_dict()}
    )
    numbers = everything(model)
    twin = make_net(seed=5)
    twin_optimizer, again = set_up(twin, policy=compressor.policy, schedule=compressor.schedule, keep=compressor.keep)
    resize_like_(twin, saved["model"])
    twin.load_state_dict(saved["model"])
    twin_optimizer.load_state_dict(saved["optimizer"])
    again.load_state_dict(saved["compressor"])
    set_random_numbers(numbers)
    return twin, twin_optimizer, again


SCHEDULES = [Every(2, until=8), WhenStable(every=2, until=14, overlap=0.5, change=0.5, checks=2)]


@pytest.mark.parametrize("at", [1, 3, 5, 7])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=["Every", "WhenStable"])
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(schedule: Every | WhenStable, at: int) -> None:
    model = make_net()
    optimizer, compressor = set_up(model, policy=Shrink(0.25), schedule=schedule)
    run(model, optimizer, compressor, at)
    twin, twin_optimizer, again = resumed(model, optimizer, compressor)
    start = everything(model)
    first = run(model, optimizer, compressor, 14 - at)
    set_random_numbers(start)
    second = run(twin, twin_optimizer, again, 14 - at)
    assert any(event.changed for event in first)
    assert [without_seconds(event) for event in second] == [without_seconds(event) for event in first]
    assert identical(everything(model, optimizer, compressor), everything(twin, twin_optimizer, again))


def test_the_state_is_a_copy_that_later_steps_do_not_change() -> None:
    model = make_net()
    optimizer, compressor = set_up(model, policy=Shrink(0.25), schedule=SCHEDULES[1])
    run(model, optimizer, compressor, 5)
    state = compressor.state_dict()
    kept = through_a_file(state)
    run(model, optimizer, compressor, 6)
    assert identical(through_a_file(state), kept)
