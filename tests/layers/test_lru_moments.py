"""Gradients and optimizer moments follow an LRU into its smaller self."""

from __future__ import annotations

import pytest
import torch
from lru_examples import BOTH, Realization, examples, make_lru, mean_gradients
from torch import Tensor


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.norm() * b.norm()))


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_full_rank_reduction_transports_the_gradient_autograd_would_give(seed: int, realization: Realization) -> None:
    layer = make_lru(4, 6, seed=seed, dtype=torch.float64, realization=realization, r_min=0.3, r_max=0.9)
    batches = examples(layer, 2)
    old = mean_gradients(layer, batches)
    reduction = layer.propose(6)
    layer.apply_(reduction)
    new = mean_gradients(layer, batches)
    assert set(reduction.moments) == set(reduction.tensors) == set(new) - {"D"}
    for name, moment_map in reduction.moments.items():
        error = (moment_map.carry(old, 1) - new[name]).abs().max()
        assert error <= 1e-10 * new[name].abs().max(), name
    torch.testing.assert_close(old["D"], new["D"], rtol=1e-10, atol=1e-12)


@BOTH
@pytest.mark.parametrize("seed", range(4))
def test_after_a_quarter_is_cut_transported_moments_point_where_gradients_do_and_slices_do_not(
    seed: int, realization: Realization
) -> None:
    layer = make_lru(8, 32, seed=seed, dtype=torch.float64, realization=realization, r_min=0.5, fades_to=1e-3)
    batches = examples(layer)
    old = mean_gradients(layer, batches)
    reduction = layer.propose(24)
    assert reduction.after <= 24
    layer.apply_(reduction)
    new = mean_gradients(layer, batches)
    for matrix in ("B", "C"):
        halves = (f"{matrix}_re", f"{matrix}_im")
        true = torch.cat([new[name].flatten() for name in halves])
        carried = torch.cat([reduction.moments[name].carry(old, 1).flatten() for name in halves])
        states = 0 if matrix == "B" else 1
        sliced = torch.cat([old[name].narrow(states, 0, reduction.after).flatten() for name in halves])
        assert cosine(carried, true) > 0.9
        assert cosine(sliced, true) < 0.5


def dL_dA(poles: Tensor, g_nu: Tensor, g_theta: Tensor) -> Tensor:
    """Gradients of the poles' logarithms as a matrix on ``(Re x, Im x)``, where a pole is a block [[a, -b], [b, a]]."""
    nu, theta = -poles.log().real, torch.remainder(poles.angle(), 2 * torch.pi)
    along, across = -g_nu / nu, g_theta / theta  # dL / d log|lambda|, dL / d arg(lambda)
    a = (along * poles.real - across * poles.imag) / poles.abs().square()
    b = (along * poles.imag + across * poles.real) / poles.abs().square()
    return torch.cat([torch.cat([a.diag(), -b.diag()], 1), torch.cat([b.diag(), a.diag()], 1)]) / 2


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_first_moments_of_poles_are_the_new_blocks_of_the_transformed_gradient(
    seed: int, realization: Realization
) -> None:
    layer = make_lru(seed=seed, dtype=torch.float64, realization=realization)
    moments = {name: torch.randn_like(p) for name, p in layer.named_parameters()}
    old, gamma = layer.linear_system(), layer.gamma_log.exp().detach().repeat(2)
    reduction = layer.propose(6)
    s = reduction.after
    assert 6 >= s > 3
    # x ~ V x', x' = W^T x, read off the maps of B and C, which are tested on their own.
    first = {name: m.first for name, m in reduction.moments.items()}
    new_gamma = reduction.tensors["gamma_log"].exp().repeat(2)
    V = (torch.cat([first["B_re"], first["B_im"]]) / new_gamma[:, None] * gamma).mT
    sign, new_sign = (torch.cat([torch.ones(n), -torch.ones(n)]).double() for n in (8, s))
    W = (torch.cat([first["C_re"], first["C_im"]]) * new_sign[:, None] * sign).mT
    G = V.mT @ dL_dA(old.A, moments["nu_log"], moments["theta_log"]) @ W
    a = G.diagonal()[:s] + G.diagonal()[s:]
    b = G.diagonal(-s) - G.diagonal(s)
    layer.apply_(reduction)
    poles = layer.linear_system().A
    nu, theta = -poles.abs().log(), torch.remainder(poles.angle(), 2 * torch.pi)
    g_nu = -nu * (a * poles.real + b * poles.imag)
    g_theta = theta * (b * poles.real - a * poles.imag)
    torch.testing.assert_close(reduction.moments["nu_log"].carry(moments, 1), g_nu, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(reduction.moments["theta_log"].carry(moments, 1), g_theta, rtol=1e-9, atol=1e-9)


@BOTH
@pytest.mark.parametrize("rank", [2, 7])
def test_second_moments_stay_non_negative(rank: int, realization: Realization) -> None:
    layer = make_lru(realization=realization)
    reduction = layer.propose(rank)
    moments = {name: torch.rand_like(p) for name, p in layer.named_parameters()}
    for name, moment_map in reduction.moments.items():
        assert (moment_map.second >= 0).all()
        carried = moment_map.carry(moments, 2)
        assert carried.shape == reduction.tensors[name].shape
        assert (carried >= 0).all()
        if not name.endswith("_im"):  # the imaginary parts of a real pole see no gradient
            assert (carried > 0).all()


@BOTH
def test_second_moments_of_poles_are_averages_of_the_old_ones(realization: Realization) -> None:
    layer = make_lru(realization=realization)
    constant = {name: torch.full_like(p, 3.0) for name, p in layer.named_parameters()}
    for name in ("nu_log", "theta_log", "gamma_log"):
        carried = layer.propose(5).moments[name].carry(constant, 2)
        torch.testing.assert_close(carried, torch.full_like(carried, 3.0))


@BOTH
def test_first_moments_of_poles_start_anew_below_three_quarters(realization: Realization) -> None:
    layer = make_lru(realization=realization)
    for name in ("nu_log", "theta_log", "gamma_log"):
        assert layer.propose(7).moments[name].first.any()
        assert not layer.propose(5).moments[name].first.any()
