"""The compressor beside the optimizer: when it acts, what it reports, what it leaves alone, how it resumes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from small_models import (
    SmallNet,
    everything,
    identical,
    make_net,
    set_random_numbers,
    through_a_file,
    train_step,
    without_seconds,
)
from torch import Tensor
from torch.optim import AdamW, Optimizer

from gramian.compression.compressor import Compressor
from gramian.compression.policies import Energy, Rank, Shrink
from gramian.compression.records import Event
from gramian.compression.schedules import At, Every, Never, WhenStable
from gramian.errors import GramianError
from gramian.layers.reducible import Spectrum, resize_like_
from gramian.layers.reduction import Reduction
from gramian.systems import gramians
from gramian.systems.balancing import Balancing
from gramian.systems.projections import Keep


def set_up(model: SmallNet, **options: Any) -> tuple[AdamW, Compressor]:
    optimizer = AdamW(model.parameters(), 1e-3)
    return optimizer, Compressor(model, optimizer, **options)


def run(model: SmallNet, optimizer: Optimizer, compressor: Compressor, steps: int) -> list[Event]:
    events = []
    for _ in range(steps):
        train_step(model, optimizer)
        events.append(compressor.step())
    return events


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


def test_skips_say_why() -> None:
    model = make_net()
    optimizer, compressor = set_up(model, policy=Energy(0.0), schedule=At([1]))
    (event,) = run(model, optimizer, compressor, 1)
    assert (event.kind, event.changed, event.layers) == ("skipped", False, ())
    assert event.reason == "the policy keeps all states, up to its min_gain"


@pytest.mark.parametrize(("min_gain", "kind"), [(0.3, "skipped"), (0.2, "cut")])
def test_a_gain_below_min_gain_is_not_worth_a_cut(min_gain: float, kind: str) -> None:
    compressor = Compressor(make_net(), policy=Shrink(0.25, min_gain=min_gain), schedule=At([1]))
    assert compressor.step().kind == kind
    assert compressor.d_states == (
        {"layers.0.lru": 9, "layers.1.lru": 6} if kind == "cut" else {"layers.0.lru": 12, "layers.1.lru": 8}
    )


def refuse(reductions: dict[str, str], monkeypatch: pytest.MonkeyPatch, model: SmallNet) -> None:
    for name, reason in reductions.items():
        layer = model.get_submodule(name)
        refusal = Reduction(layer.d_state, layer.d_state, 3, {}, {}, None, reason)
        monkeypatch.setattr(layer, "propose", lambda rank, choose, spectrum, refusal=refusal: refusal)


def test_refused_proposals_are_reported_and_leave_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_net()
    refuse({"layers.0.lru": "too wobbly"}, monkeypatch, model)
    event = Compressor(model, policy=Shrink(0.5), schedule=At([1])).step()
    assert event.kind == "cut"
    assert [(c.layer, c.accepted, c.before, c.after, c.reason) for c in event.layers] == [
        ("layers.0.lru", False, 12, 12, "too wobbly"),
        ("layers.1.lru", True, 8, 4, ""),
    ]
    assert [layer.lru.d_state for layer in model.layers] == [12, 4]


def test_where_every_proposal_is_refused_the_step_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_net()
    before = everything(model)
    refuse({"layers.0.lru": "no", "layers.1.lru": "never"}, monkeypatch, model)
    event = Compressor(model, policy=Shrink(0.5), schedule=At([1])).step()
    assert (event.kind, event.reason) == ("skipped", "every proposal was refused")
    assert [change.reason for change in event.layers] == ["no", "never"]
    assert identical(everything(model), before)


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


def test_spectra_are_those_of_the_layers_now() -> None:
    model = make_net()
    compressor = Compressor(model, policy=Rank(4), schedule=At([1]))
    before = compressor.spectra()
    compressor.step()
    assert {name: s.d_state for name, s in before.items()} == {"layers.0.lru": 12, "layers.1.lru": 8}
    assert {name: s.d_state for name, s in compressor.spectra().items()} == compressor.d_states
    for name, spectrum in before.items():
        torch.testing.assert_close(compressor.last_spectra[name].values, spectrum.values, rtol=1e-12, atol=0)


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


def test_no_matrix_behind_a_spectrum_outlives_the_cut() -> None:
    made: list[weakref.ref[Balancing]] = []

    class Watched(Energy):
        def asked(self, spectra: Mapping[str, Spectrum]) -> dict[str, int]:
            made.extend(weakref.ref(s.balancing) for s in spectra.values() if s.balancing is not None)
            return super().asked(spectra)

    compressor = Compressor(make_net(8, 8, 6), policy=Watched(0.2, min_gain=0.0), schedule=Every(1, until=2))
    for _ in range(2):
        assert compressor.step().changed
        gc.collect()
        assert len(made) >= 3
        assert all(basis() is None for basis in made)
        assert all(s.balancing is None for s in compressor.last_spectra.values())
    assert all(s.balancing is None for s in compressor.spectra().values())


def test_a_cut_balances_every_layer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    factors = gramians.takenaka_factors

    def counted(logs: Tensor, B: Tensor, pairs: bool) -> Tensor:
        batches.append(tuple(B.shape[:-2]))
        return factors(logs, B, pairs)

    monkeypatch.setattr(gramians, "takenaka_factors", counted)
    assert Compressor(make_net(8, 8, 6), policy=Shrink(0.5), schedule=At([1])).step().changed
    assert batches == [(2, 2), (2,)]  # two factors, of two layers of one shape together, and of the third
