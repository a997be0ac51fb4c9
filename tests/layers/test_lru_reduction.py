"""An LRU becomes a smaller LRU: what is kept, what it costs, and how gradients and moments follow."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lru_examples import BOTH, Realization, copied, inputs, make_lru
from torch import Tensor

from gramian.errors import ShapeError
from gramian.layers.lru import LRU
from gramian.systems.gramians import malmquist_takenaka
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


def test_rows_of_B_keep_their_typical_length() -> None:
    def typical(layer: LRU) -> Tensor:
        return torch.hypot(layer.B_re, layer.B_im).square().sum(1).sqrt().log().mean().exp()

    layer = make_lru()
    before = typical(layer)
    layer.apply_(layer.propose(3))
    row = torch.hypot(layer.B_re, layer.B_im).square().sum(1).sqrt()
    torch.testing.assert_close(row, before.expand(3))


def test_an_old_graph_that_is_still_alive_does_not_break_the_next_backward() -> None:
    layer = make_lru()
    u = inputs(layer)
    loss = layer(u).square().mean()
    loss.backward(retain_graph=True)
    accumulators_of_the_old_shape = loss
    layer.apply_(layer.propose(3))
    layer(u).square().mean().backward()
    assert layer.B_re.grad is not None
    assert layer.B_re.grad.shape == (3, 3)
    assert accumulators_of_the_old_shape.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_training_goes_on_over_cuts_while_losses_are_kept(dtype: torch.dtype) -> None:
    layer = make_lru(d_state=12, dtype=dtype, fades_to=1e-2)
    u, target = inputs(layer), inputs(layer, seed=8)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-2)
    losses = []
    for rank in (12, 8, 5, 3, 2):
        if rank < 12:
            layer.apply_(layer.propose(rank, modal))
        for _ in range(3):
            optimizer.zero_grad(set_to_none=True)
            losses.append((layer(u) - target).float().square().mean())
            losses[-1].backward()
            optimizer.step()
    assert layer.d_state == 2
    assert all(loss.isfinite() for loss in losses)


@BOTH
def test_a_cut_layer_runs_in_all_its_forms(realization: Realization) -> None:
    layer = make_lru(dtype=torch.float64, realization=realization)
    layer.apply_(layer.propose(3))
    u, state = inputs(layer, 2, 20), layer.initial_state(2)
    y, final = layer.scan(u)
    for k in range(20):
        y_k, state = layer.step(u[:, k], state)
        torch.testing.assert_close(y_k, y[:, k], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, final, rtol=1e-12, atol=1e-12)
    assert torch.equal(copy.deepcopy(layer)(u), y)


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


@BOTH
def test_after_a_cut_rows_of_B_and_columns_of_C_have_the_typical_length_and_gamma_the_rest(
    realization: Realization,
) -> None:
    layer = make_lru(d_state=24, fades_to=1e-2, dtype=torch.float64, realization=realization)

    def lengths() -> tuple[Tensor, Tensor]:
        B, C = torch.hypot(layer.B_re, layer.B_im).detach(), torch.hypot(layer.C_re, layer.C_im).detach()
        return B.square().sum(1).sqrt(), C.square().sum(0).sqrt()

    typical_B, typical_C = (length.log().mean().exp() for length in lengths())
    layer.apply_(layer.propose(6))
    rows, columns = lengths()
    torch.testing.assert_close(rows, typical_B.expand_as(rows))
    torch.testing.assert_close(columns, (typical_C * (24 / layer.d_state) ** 0.5).expand_as(columns))
