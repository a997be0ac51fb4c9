"""An LRU with states that nothing reaches, that repeat each other, or whose poles are real and positive."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from lru_examples import inputs, make_lru

from gramian.layers.lru import LRU
from gramian.systems.gramians import malmquist_takenaka
from gramian.systems.projections import balanced


def with_duplicates(dtype: torch.dtype) -> LRU:
    """Eight states of which four repeat the poles and inputs of the others."""
    layer = make_lru(dtype=dtype)
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if name[0] != "C" and name != "D":
                p[4:] = p[:4]
    return layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_duplicate_states_weigh_nothing_and_go_without_a_change(dtype: torch.dtype) -> None:
    layer = with_duplicates(dtype)
    u = inputs(layer)
    y, spectrum = layer(u), layer.spectrum()
    assert spectrum.discarded(8) < 1e-7
    reduction = layer.propose(4)
    assert reduction.after == 4
    layer.apply_(reduction)
    torch.testing.assert_close(layer(u), y, rtol=1e-5, atol=1e-5)


def test_asked_for_full_rank_a_layer_drops_the_states_that_nothing_reaches() -> None:
    exact = partial(balanced, route=malmquist_takenaka)
    assert with_duplicates(torch.float64).propose(8, exact).after == 4
    for silent in ("B", "C", "both"):
        layer = make_lru(dtype=torch.float64)
        with torch.no_grad():
            for name, p in layer.named_parameters():
                if name.startswith("B") and silent in ("B", "both"):
                    p[5:] = 0
                if name.startswith("C") and silent in ("C", "both"):
                    p[:, 5:] = 0
        u = inputs(layer)
        y = layer(u)
        reduction = layer.propose(8, exact)
        assert reduction.after == 5
        layer.apply_(reduction)
        torch.testing.assert_close(layer(u), y, rtol=1e-9, atol=1e-9)


def test_a_layer_that_passes_nothing_on_is_left_alone() -> None:
    layer = make_lru()
    with torch.no_grad():
        layer.C_re.zero_(), layer.C_im.zero_()
    reduction = layer.propose(3)
    assert not reduction.accepted
    assert reduction.reason == "no state carries input to the output"


def test_a_positive_real_pole_is_packed_with_a_finite_angle() -> None:
    layer = make_lru(d_state=3, dtype=torch.float64)
    with torch.no_grad():
        layer.nu_log.fill_(-1.0)
        layer.theta_log.fill_(-40.0)  # three states with one real pole, of which inputs reach the real part
        layer.B_im.zero_(), layer.C_im.zero_()
        layer.B_re[1:] = layer.B_re[0] * torch.tensor([[0.5], [-2.0]])
    u = inputs(layer)
    y = layer(u)
    reduction = layer.propose(1)
    assert reduction.measurement is not None
    assert (reduction.after, reduction.measurement.real_poles, reduction.measurement.order) == (1, 1, 1)
    layer.apply_(reduction)
    assert layer.theta_log.isfinite().all()
    assert layer.theta_log.exp() <= 1e-8
    torch.testing.assert_close(layer(u), y, rtol=1e-6, atol=1e-6)
    layer(u).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("silent", ["B", "C"])
def test_dead_states_do_not_make_the_parameters_of_living_ones_small(silent: str) -> None:
    layer = make_lru(d_state=8, dtype=torch.float64)
    with torch.no_grad():
        for half in ("re", "im"):
            parameter = layer.get_parameter(f"{silent}_{half}")
            (parameter if silent == "B" else parameter.mT)[4:] = 0
    living = {
        name: p.detach().clone().narrow(1 if name.startswith("C") else 0, 0, 4)
        for name, p in layer.named_parameters()
        if name != "D"
    }
    layer.apply_(layer.propose(4))
    for name, before in living.items():
        if name not in ("nu_log", "theta_log"):
            size, was = (p.abs().mean() for p in (layer.get_parameter(name), before))
            assert was / 10 < size < 10 * was, name
