"""An LRU becomes a smaller LRU: what a proposal promises, and what applying it leaves as it was."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lru_examples import BOTH, Realization, copied, inputs, make_lru

from gramian.errors import ShapeError
from gramian.systems.linear_system import LinearSystem
from gramian.systems.norms import hinf_norm
from gramian.systems.projections import Projection, balanced, modal, random


@BOTH
def test_propose_changes_nothing(realization: Realization) -> None:
    layer = make_lru(realization=realization)
    layer(inputs(layer)).sum().backward()
    before, versions = copied(layer), {n: p._version for n, p in layer.named_parameters()}
    gradients, random_numbers = {n: p.grad.clone() for n, p in layer.named_parameters()}, torch.get_rng_state()
    assert layer.propose(3).accepted
    for name, p in layer.named_parameters():
        assert torch.equal(p, before[name])
        assert torch.equal(p.grad, gradients[name])
        assert p._version == versions[name]
    assert torch.equal(torch.get_rng_state(), random_numbers)


@BOTH
def test_two_proposals_are_bit_equal(realization: Realization) -> None:
    layer = make_lru(realization=realization)
    first, second = layer.propose(3), layer.propose(3)
    assert first.measurement == second.measurement
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert all(torch.equal(first.moments[n].first, second.moments[n].first) for n in first.moments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_cut_keeps_identity_flags_and_groups_of_the_parameters(dtype: torch.dtype) -> None:
    layer = make_lru(d_state=16, fades_to=1e-3, dtype=dtype)
    layer.nu_log._no_weight_decay = True
    layer.C_im.requires_grad_(False)
    optimizer = torch.optim.SGD([{"params": [layer.nu_log]}, {"params": [layer.B_re, layer.D], "lr": 0.5}], lr=0.1)
    parameters = dict(layer.named_parameters())
    layer(inputs(layer)).sum().backward()
    reduction = layer.propose(4, modal)
    layer.apply_(reduction)
    assert layer.d_state == reduction.after == 4
    assert {name: id(p) for name, p in layer.named_parameters()} == {name: id(p) for name, p in parameters.items()}
    assert all(isinstance(p, torch.nn.Parameter) and p.dtype == dtype for p in layer.parameters())
    assert layer.nu_log._no_weight_decay is True
    assert [name for name, p in parameters.items() if not p.requires_grad] == ["C_im"]
    assert optimizer.param_groups[0]["params"][0] is layer.nu_log
    assert optimizer.param_groups[1]["params"][0] is layer.B_re
    assert all(p.grad is None for name, p in parameters.items() if name != "D")
    assert layer.D.grad is not None
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    assert shapes["B_re"] == shapes["B_im"] == (4, 3)
    assert shapes["C_re"] == shapes["C_im"] == (3, 4)
    assert shapes["nu_log"] == shapes["theta_log"] == shapes["gamma_log"] == (4,)


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_full_rank_reduction_leaves_the_function_as_it_was(seed: int, realization: Realization) -> None:
    layer = make_lru(4, 6, seed=seed, dtype=torch.float64, realization=realization, r_min=0.3, r_max=0.9)
    u = inputs(layer)
    y, before = layer(u), copied(layer)
    reduction = layer.propose(6)
    assert reduction.after == 6
    layer.apply_(reduction)
    torch.testing.assert_close(layer(u), y, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(layer.B_re, before["B_re"])  # in other coordinates


@BOTH
@given(seed=st.integers(0, 10**6), rank=st.integers(1, 8), r_max=st.sampled_from([0.5, 0.95, 0.9999]))
def test_an_accepted_proposal_keeps_its_bound_when_measured(
    realization: Realization, seed: int, rank: int, r_max: float
) -> None:
    layer = make_lru(seed=seed, realization=realization, r_min=0.1, r_max=r_max)
    fom, hsv = layer.linear_system(), layer.spectrum().values
    reduction = layer.propose(rank)
    if not reduction.accepted:
        assert reduction.reason
        return
    m = reduction.measurement
    assert m is not None
    assert m.bound is not None
    layer.apply_(reduction)
    measured = float(hinf_norm(fom - layer.linear_system()))
    assert measured == pytest.approx(m.measured, rel=2e-3)
    assert measured <= 1.06 * max(m.bound, 1e-5 * float(hinf_norm(fom)))
    assert m.bound == pytest.approx(2 * float(hsv[m.order :].sum()), rel=1e-9, abs=1e-12)
    assert m.discarded == pytest.approx(float(hsv[m.order :].sum() / hsv.sum()), rel=1e-9, abs=1e-12)
    assert 1 <= layer.d_state == reduction.after <= rank
    slots = (m.order - m.real_poles) // 2 + m.real_poles if realization == "real" else m.order
    assert slots == reduction.after
    assert m.max_pole == pytest.approx(float(layer.linear_system().poles.abs().max()), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_real_realization_has_the_smaller_bound_at_equal_size(seed: int) -> None:
    real, complex_ = (make_lru(seed=seed, realization=r).spectrum().values for r in ("real", "complex"))
    for rank in range(1, 9):
        assert real[2 * rank :].sum() <= complex_[rank:].sum() + 1e-9 * complex_.sum()


def lying(system: LinearSystem, rank: int) -> Projection:
    """A random projection that claims the error bound of the best one."""
    wrong = random(system, rank)
    return Projection(wrong.V, wrong.W, balanced(system, rank).hsv)


@BOTH
def test_a_proposal_whose_measurement_fails_is_refused_and_cannot_be_applied(realization: Realization) -> None:
    layer = make_lru(realization=realization, fades_to=1e-3)
    before = copied(layer)
    reduction = layer.propose(5, lying)
    assert not reduction.accepted
    assert (reduction.before, reduction.after, reduction.asked) == (8, 8, 5)
    assert reduction.tensors == {}
    assert reduction.measurement is None
    assert "measured error" in reduction.reason
    assert "exceeds 1.05 x bound" in reduction.reason
    with pytest.raises(ShapeError, match=r"measured error.*(.|\n)*only if it was not refused"):
        layer.apply_(reduction)
    assert all(torch.equal(p, before[name]) for name, p in layer.named_parameters())


def test_a_projection_without_a_bound_is_measured_and_accepted() -> None:
    layer = make_lru()
    reduction = layer.propose(3, modal)
    assert reduction.accepted
    assert reduction.measurement is not None
    assert reduction.measurement.bound is None
    assert reduction.measurement.discarded is None
    fom = layer.linear_system()
    layer.apply_(reduction)
    assert reduction.measurement.measured == pytest.approx(float(hinf_norm(fom - layer.linear_system())), rel=2e-3)


def test_a_reduction_cannot_be_applied_twice() -> None:
    layer = make_lru()
    reduction = layer.propose(3)
    layer.apply_(reduction)
    with pytest.raises(ShapeError, match=r"a reduction from 8 to 3 states was given to a layer with 3"):
        layer.apply_(reduction)


@pytest.mark.parametrize("rank", [0, 9, -1])
def test_a_rank_that_the_layer_does_not_have_is_refused(rank: int) -> None:
    with pytest.raises(ShapeError, match=r"Needed: 1 <= rank <= 8"):
        make_lru().propose(rank)
