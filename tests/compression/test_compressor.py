"""The compressor beside the optimizer: when it acts, what it reports, what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from cut_runs import run, set_up
from small_models import everything, identical, make_net, train_step
from torch.optim import AdamW

from gramian.compression.compressor import Compressor
from gramian.compression.policies import Energy, Rank, Shrink
from gramian.compression.records import Event
from gramian.compression.schedules import At, Every, Never
from gramian.errors import GramianError
from gramian.systems.projections import Keep


def test_every_step_returns_an_event_and_only_scheduled_ones_act() -> None:
    model = make_net()
    schedule = Every(4, until=10, start=3)
    optimizer, compressor = set_up(model, policy=Shrink(0.25), schedule=schedule)
    events = run(model, optimizer, compressor, 14)
    assert all(isinstance(event, Event) for event in events)
    assert [event.step for event in events] == list(range(1, 15))
    assert [event.step for event in events if event.kind != "none"] == schedule.steps == [3, 7]
    assert [event.changed for event in events] == [event.kind == "cut" for event in events]
    assert compressor.steps == 14


def test_a_cut_is_what_the_policy_asked_for_and_the_event_says() -> None:
    model = make_net()
    optimizer, compressor = set_up(model, policy=Energy(tau=0.1), schedule=At([2]))
    train_step(model, optimizer)
    compressor.step()
    train_step(model, optimizer)
    wanted = Energy(tau=0.1).targets(compressor.spectra())
    event = compressor.step()
    assert event.kind == "cut"
    assert [change.layer for change in event.layers] == ["layers.0.lru", "layers.1.lru"]
    for change in event.layers:
        assert change.accepted
        assert (change.asked, change.after) == wanted[change.layer]
        assert change.after == compressor.d_states[change.layer] < change.before
        assert change.order is not None
        assert change.tau == pytest.approx(compressor.last_spectra[change.layer].discarded(change.order), abs=1e-12)
        assert change.measured is not None
        assert change.bound is not None
        assert change.measured <= 1.05 * max(change.bound, 1e-5)
    assert compressor.d_states == {
        "layers.0.lru": model.layers[0].lru.d_state,
        "layers.1.lru": model.layers[1].lru.d_state,
    }


def test_parameters_keep_identity_and_training_goes_on() -> None:
    model = make_net()
    optimizer, compressor = set_up(model, policy=Shrink(0.3), schedule=Every(2, until=6))
    parameters = {name: id(p) for name, p in model.named_parameters()}
    run(model, optimizer, compressor, 6)
    assert {name: id(p) for name, p in model.named_parameters()} == parameters
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == set(parameters.values())
    before = [p.detach().clone() for p in model.parameters()]
    assert torch.tensor([train_step(model, optimizer) for _ in range(5)]).isfinite().all()
    assert not any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert all(p.isfinite().all() for p in model.parameters())


def test_training_after_cuts_still_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model = make_net()
    u = torch.randn(32, 16, 2)
    target = u[:, :, :1].mean(1)
    optimizer = AdamW(model.parameters(), 1e-2)
    compressor = Compressor(model, optimizer, policy=Shrink(0.2), schedule=Every(10, until=30))
    losses = []
    for _ in range(80):
        loss = (model(u) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        compressor.step()
        losses.append(loss.item())
    assert compressor.d_states == {"layers.0.lru": 6, "layers.1.lru": 4}
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_a_compressor_that_does_nothing_changes_nothing() -> None:
    with_it, without = make_net(seed=1), make_net(seed=1)
    optimizer, compressor = set_up(with_it, policy=Shrink(0.3), schedule=Never())
    run(with_it, optimizer, compressor, 4)
    one = everything(with_it, optimizer)
    other = AdamW(without.parameters(), 1e-3)
    make_net(seed=1)  # the same random numbers again
    for _ in range(4):
        train_step(without, other)
    assert identical(one, everything(without, other))


@pytest.mark.parametrize("keep", ["largest", "smallest", "random"])
def test_a_cut_takes_no_random_numbers(keep: str) -> None:
    model = make_net()
    before = everything(model)
    assert Compressor(model, policy=Shrink(0.5), schedule=At([1]), keep=keep).step().changed
    after = everything(model)
    assert all(identical(before[source], after[source]) for source in ("torch", "numpy", "python"))


def test_the_largest_values_are_the_ones_to_keep() -> None:
    def errors(keep: str | Keep) -> list[float]:
        event = Compressor(make_net(24, 16), policy=Rank(6), schedule=At([1]), keep=keep).step()
        assert event.changed
        return [change.measured for change in event.layers if change.measured is not None]

    largest, smallest, random = errors("largest"), errors("smallest"), errors("random")
    assert len(largest) == len(smallest) == len(random) == 2
    assert all(best < other for best, other in zip(largest, random, strict=True))
    assert all(best < other for best, other in zip(largest, smallest, strict=True))
    assert errors("random") == random == errors(Keep("random", seed=0))
    assert errors(Keep("random", seed=1)) != random


def test_tolerances_compound_to_what_all_cuts_together_gave_up() -> None:
    model = make_net(16, 16)
    optimizer, compressor = set_up(model, policy=Energy(0.1, min_gain=0.0), schedule=Every(1, until=4))
    kept = dict.fromkeys(compressor.layers, 1.0)
    cuts = [event for event in run(model, optimizer, compressor, 4) if event.changed]
    assert len(cuts) > 1
    for event in cuts:
        for change in event.layers:
            assert change.tau is not None
            kept[change.layer] *= 1 - change.tau
            assert change.tau_total == pytest.approx(1 - kept[change.layer], abs=1e-12)
    assert compressor.kept == pytest.approx(kept, abs=1e-12)
    assert min(kept.values()) < 0.9


def test_without_an_optimizer_only_the_model_is_cut() -> None:
    model = make_net()
    assert Compressor(model, policy=Rank(4), schedule=At([1])).step().changed
    assert [layer.lru.d_state for layer in model.layers] == [4, 4]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(GramianError, match="Did you mean 'transport'"):
        Compressor(make_net(), policy=Rank(4), schedule=Never(), optimizer_state="transported")
    with pytest.raises(GramianError, match="largest, smallest, random"):
        Compressor(make_net(), policy=Rank(4), schedule=Never(), keep="biggest")
    with pytest.raises(GramianError, match="has no layer that can be reduced"):
        Compressor(torch.nn.Linear(2, 2), policy=Rank(4), schedule=Never())
