"""Optimizer moments follow a cut, or start anew; everything else about the optimizer stays as it was."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from small_models import SmallNet, everything, identical, make_net, train_step
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

from gramian.compression.compressor import Compressor
from gramian.compression.cuts import Plan, apply_plan_, plan_cuts
from gramian.compression.optimizer_state import Carry
from gramian.compression.policies import Shrink
from gramian.compression.schedules import Every
from gramian.layers.reducible import reducible_layers
from gramian.systems.projections import balanced

Make = Callable[[Iterable[Any]], Optimizer]

FIRST = ("exp_avg", "momentum_buffer", "grad_avg")
KNOWN: dict[str, tuple[Make, set[str]]] = {
    "Adam": (lambda p: Adam(p, 1e-3), {"exp_avg", "exp_avg_sq"}),
    "AdamW": (lambda p: AdamW(p, 1e-3), {"exp_avg", "exp_avg_sq"}),
    "amsgrad": (lambda p: Adam(p, 1e-3, amsgrad=True), {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}),
    "NAdam": (lambda p: NAdam(p, 1e-3), {"exp_avg", "exp_avg_sq"}),
    "RAdam": (lambda p: RAdam(p, 1e-3), {"exp_avg", "exp_avg_sq"}),
    "SGD": (lambda p: SGD(p, 1e-3, momentum=0.9), {"momentum_buffer"}),
    "Nesterov": (lambda p: SGD(p, 1e-3, momentum=0.9, nesterov=True), {"momentum_buffer"}),
    "RMSprop": (lambda p: RMSprop(p, 1e-3), {"square_avg"}),
    "RMSprop with momentum": (lambda p: RMSprop(p, 1e-3, momentum=0.9), {"square_avg", "momentum_buffer"}),
    "centred RMSprop": (
        lambda p: RMSprop(p, 1e-3, momentum=0.9, centered=True),
        {"square_avg", "momentum_buffer", "grad_avg"},
    ),
}
VARIANTS: dict[str, Make] = {
    "Adam foreach": lambda p: Adam(p, 1e-3, foreach=True),
    "Adam fused": lambda p: Adam(p, 1e-3, fused=True),
    "AdamW fused": lambda p: AdamW(p, 1e-3, fused=True),
    "AdamW fused amsgrad": lambda p: AdamW(p, 1e-3, fused=True, amsgrad=True),
    "SGD foreach": lambda p: SGD(p, 1e-3, momentum=0.9, foreach=True),
    "SGD fused": lambda p: SGD(p, 1e-3, momentum=0.9, fused=True),
    "RMSprop foreach": lambda p: RMSprop(p, 1e-3, momentum=0.9, centered=True, foreach=True),
    "SGD without momentum": lambda p: SGD(p, 1e-3),
    "Adam with a tensor for its rate": lambda p: Adam(p, torch.tensor(1e-3)),
}


def trained(make: Make, steps: int = 4) -> tuple[SmallNet, Optimizer]:
    model = make_net()
    optimizer = make(model.parameters())
    for _ in range(steps):
        train_step(model, optimizer)
    return model, optimizer


def states(model: SmallNet, optimizer: Optimizer) -> dict[str, dict[str, Any]]:
    """Copies of the optimizer's state by parameter name."""
    return {
        name: {k: v.clone() if isinstance(v, Tensor) else v for k, v in optimizer.state[p].items()}
        for name, p in model.named_parameters()
        if p in optimizer.state
    }


def cut(model: SmallNet, optimizer: Optimizer | None, carry: Carry = "transport", by: float = 0.25) -> Plan:
    """Cut all layers, as a compressor does."""
    layers = reducible_layers(model)
    spectra = {name: layer.spectrum() for name, layer in layers.items()}
    plan = plan_cuts(layers, spectra, Shrink(by), balanced)
    assert set(plan.accepted) == set(layers)
    apply_plan_(plan, layers, optimizer, carry)
    return plan


def carried(matrix: Tensor, parts: list[Tensor], dim: int) -> Tensor:
    stacked = torch.cat(parts, dim).double()
    return matrix @ stacked if dim == 0 else stacked @ matrix.mT


@pytest.mark.parametrize("name", KNOWN)
def test_moments_are_carried_through_the_moment_maps_and_step_counts_stay(name: str) -> None:
    make, keys = KNOWN[name]
    model, optimizer = trained(make)
    before = states(model, optimizer)
    plan = cut(model, optimizer)
    after = states(model, optimizer)
    for layer, reduction in plan.accepted.items():
        for parameter, m in reduction.moments.items():
            old = {source: before[f"{layer}.{source}"] for source in m.sources}
            new = after[f"{layer}.{parameter}"]
            assert {key for key, v in new.items() if isinstance(v, Tensor) and v.ndim} == keys
            for key in keys:
                parts = [old[source][key] for source in m.sources]
                expected = carried(m.first if key in FIRST else m.second, parts, m.dim)
                if key == "square_avg" and "grad_avg" in keys:  # variances add up, not squares
                    spreads = [old[s][key].double() - old[s]["grad_avg"].double().square() for s in m.sources]
                    expected = carried(m.second, spreads, m.dim) + new["grad_avg"].double().square()
                torch.testing.assert_close(new[key].double(), expected, rtol=1e-5, atol=1e-9)
                assert new[key].dtype == torch.float32
            rest = {key: v for key, v in before[f"{layer}.{parameter}"].items() if key not in keys}
            assert identical({key: v for key, v in new.items() if key not in keys}, rest)


@pytest.mark.parametrize("name", KNOWN)
def test_second_moments_stay_non_negative_and_steps_finite(name: str) -> None:
    model, optimizer = trained(KNOWN[name][0])
    cut(model, optimizer, by=0.5)
    for state in states(model, optimizer).values():
        for key in ("exp_avg_sq", "max_exp_avg_sq", "square_avg"):
            assert key not in state or (state[key] >= 0).all()
        if "grad_avg" in state:
            assert (state["square_avg"] >= state["grad_avg"].square()).all()
    for _ in range(5):
        train_step(model, optimizer)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_centred_variance_that_a_plain_map_would_make_negative_stays_positive() -> None:
    model, optimizer = trained(KNOWN["centred RMSprop"][0])
    for state in optimizer.state.values():  # gradients that hardly ever change: all mean, no variance
        state["grad_avg"].fill_(1.0)
        state["square_avg"].fill_(1.0 + 1e-4)
    plan = cut(model, optimizer, by=0.5)
    plain = []
    for reduction in plan.accepted.values():
        for m in reduction.moments.values():
            ones = [torch.ones(reduction.before, 1)] * len(m.sources)
            plain.append((carried(m.second, ones, 0) - carried(m.first, ones, 0).square()).min())
    assert min(plain) < -0.1  # the test would notice
    train_step(model, optimizer)
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", [*KNOWN, *VARIANTS])
@pytest.mark.parametrize("carry", ["transport", "reset"])
def test_training_goes_on_after_a_cut(name: str, carry: Carry) -> None:
    make = KNOWN[name][0] if name in KNOWN else VARIANTS[name]
    model, optimizer = trained(make, 2)
    for _ in range(2):
        cut(model, optimizer, carry)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        for _ in range(2):
            assert torch.tensor(train_step(model, optimizer)).isfinite()
        moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
        assert {n for n in moved if ".lru." in n} == {n for n in before if ".lru." in n}
        assert all(p.isfinite().all() for p in model.parameters())


def test_reset_starts_cut_parameters_anew_with_step_zero() -> None:
    model, optimizer = trained(KNOWN["AdamW"][0])
    plan = cut(model, optimizer, "reset")
    fresh = {f"{layer}.{name}" for layer, r in plan.accepted.items() for name in r.tensors}
    assert set(states(model, optimizer)) == {name for name, _ in model.named_parameters()} - fresh
    train_step(model, optimizer)
    for name, state in states(model, optimizer).items():
        assert float(state["step"]) == (1 if name in fresh else 5)


def test_reset_momentum_of_sgd_is_that_of_a_first_step() -> None:
    model, optimizer = trained(KNOWN["SGD"][0])
    cut(model, optimizer, "reset")
    lru = model.layers[0].lru
    model(torch.randn(5, 16, 2)).square().mean().backward()
    optimizer.step()
    assert torch.equal(optimizer.state[lru.B_re]["momentum_buffer"], lru.B_re.grad)
    assert not torch.equal(optimizer.state[lru.D]["momentum_buffer"], lru.D.grad)


@pytest.mark.parametrize("carry", ["transport", "reset"])
@pytest.mark.parametrize("name", ["AdamW", "SGD", "centred RMSprop"])
def test_the_state_of_parameters_that_are_not_cut_stays_bit_equal(name: str, carry: Carry) -> None:
    model, optimizer = trained(KNOWN[name][0])
    before = states(model, optimizer)
    plan = cut(model, optimizer, carry)
    changed = {f"{layer}.{p}" for layer, r in plan.accepted.items() for p in r.tensors}
    after = states(model, optimizer)
    untouched = before.keys() - changed
    assert {"encoder.weight", "layers.0.lru.D", "layers.1.norm.bias"} <= untouched
    for parameter in untouched:
        assert identical(after[parameter], before[parameter]), parameter


class Signum(Optimizer):
    """Somebody's own optimizer, with a state of the parameter's shape, another one and a counter."""

    def __init__(self, params: Iterable[Any]) -> None:
        super().__init__(params, {"lr": 1e-3})

    def step(self) -> None:
        for p in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            state = self.state[p]
            state.setdefault("average", torch.zeros_like(p)).lerp_(p.grad, 0.1)
            state["norm"] = p.grad.norm()
            state["count"] = state.get("count", 0) + 1
            p.data.add_(state["average"].sign(), alpha=-1e-3)


@pytest.mark.parametrize("carry", ["transport", "reset"])
@pytest.mark.parametrize("make", [lambda p: Adagrad(p, 1e-3), Signum])
def test_an_unknown_optimizer_starts_from_zeros_with_one_warning_at_the_line_of_the_user(
    make: Make, carry: Carry
) -> None:
    model, optimizer = trained(make)
    old = states(model, optimizer)
    compressor = Compressor(model, optimizer, policy=Shrink(0.25), schedule=Every(1, until=9), optimizer_state=carry)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            assert compressor.step().changed
            train_step(model, optimizer)
    assert len(caught) == 1
    assert f"{type(optimizer).__name__} is not known here" in str(caught[0].message)
    assert caught[0].filename == __file__
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cut(model, optimizer, carry)
    assert not caught
    new = states(model, optimizer)
    for name, p in model.named_parameters():
        key = "average" if make is Signum else "sum"
        assert new[name][key].shape == p.shape
        if ".lru." in name and not name.endswith("D"):
            assert not new[name][key].any()
            assert new[name].keys() == old[name].keys()
        else:
            assert new[name][key].any()


def test_parameter_groups_and_schedulers_are_left_as_they_are() -> None:
    model = make_net()
    slow = [p for name, p in model.named_parameters() if ".lru." in name]
    fast = [p for name, p in model.named_parameters() if ".lru." not in name]
    optimizer = AdamW([{"params": slow, "lr": 1e-4, "weight_decay": 0.0}, {"params": fast}], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    train_step(model, optimizer)
    scheduler.step()
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    schedule, members = scheduler.state_dict(), [[id(p) for p in g["params"]] for g in optimizer.param_groups]
    cut(model, optimizer)
    assert [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups] == groups
    assert [[id(p) for p in g["params"]] for g in optimizer.param_groups] == members
    assert scheduler.state_dict() == schedule
    rates = [g["lr"] for g in optimizer.param_groups]
    train_step(model, optimizer)
    scheduler.step()
    assert all(g["lr"] < rate for g, rate in zip(optimizer.param_groups, rates, strict=True))


@pytest.mark.parametrize("enabled", [False, True])
def test_a_gradient_scaler_does_not_notice(enabled: bool) -> None:
    model = make_net()
    optimizer = Adam(model.parameters(), 1e-3)
    scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=64.0, growth_interval=2)
    for step in range(6):
        u = torch.randn(5, 16, 2)
        scaler.scale(model(u).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        before = scaler.state_dict()
        if step % 2:
            cut(model, optimizer)
        assert scaler.state_dict() == before
    assert scaler.get_scale() == (512.0 if enabled else 1.0)
    assert all(p.isfinite().all() for p in model.parameters())


def test_an_optimizer_that_has_not_stepped_yet_gets_no_state() -> None:
    model = make_net()
    optimizer = Adam(model.parameters(), 1e-3)
    cut(model, optimizer)
    assert not optimizer.state
    train_step(model, optimizer)


def half_frozen(make: Make) -> tuple[SmallNet, Optimizer]:
    """A layer of which B_im is not trained, after three steps and a cut."""
    model = make_net()
    model.layers[0].lru.B_im.requires_grad_(False)
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    for _ in range(3):
        train_step(model, optimizer)
    cut(model, optimizer)
    return model, optimizer


def test_a_moment_of_which_a_part_was_never_trained_starts_anew() -> None:
    model, optimizer = half_frozen(KNOWN["Adam"][0])
    lru = model.layers[0].lru
    assert lru.B_im not in optimizer.state
    assert lru.B_re not in optimizer.state
    assert optimizer.state[lru.C_re]["exp_avg"].any()
    train_step(model, optimizer)
    assert float(optimizer.state[lru.B_re]["step"]) == 1


@pytest.mark.parametrize("name", ["Adam fused", "SGD fused"])
def test_fused_optimizers_go_on_where_a_part_was_never_trained(name: str) -> None:
    model, optimizer = half_frozen(VARIANTS[name])
    before = model.layers[0].lru.B_re.detach().clone()
    train_step(model, optimizer)
    assert not torch.equal(model.layers[0].lru.B_re, before)


def test_the_state_of_a_cut_model_can_be_saved_and_loaded() -> None:
    model, optimizer = trained(KNOWN["AdamW"][0])
    cut(model, optimizer)
    twin = make_net()
    twin_optimizer = AdamW(twin.parameters(), 1e-3)
    cut(twin, None)
    twin.load_state_dict(model.state_dict())
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for m, o in ((model, optimizer), (twin, twin_optimizer)):
        torch.manual_seed(3)
        u = torch.randn(5, 16, 2)
        m.eval()(u).square().mean().backward()
        o.step()
    assert identical(everything(model, optimizer), everything(twin, twin_optimizer))
