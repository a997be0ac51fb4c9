"""Optimizer moments follow a cut, or start anew; everything else about the optimizer stays as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from cut_runs import FIRST, KNOWN, Make, cut, states, trained
from small_models import identical, train_step
from torch import Tensor
from torch.optim import Adagrad, Optimizer

from gramian.compression.compressor import Compressor
from gramian.compression.optimizer_state import Carry
from gramian.compression.policies import Shrink
from gramian.compression.schedules import Every


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
