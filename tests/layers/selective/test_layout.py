"""Parameters, and optimizer moments, follow a change of states."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from gramian.layers.mamba import Mamba
from gramian.layers.reduction import IndexMap, MomentMap
from gramian.layers.selective.layer import SelectiveLayer
from gramian.layers.selective.layout import Fixed, Layout, StateChange, States
from gramian.layers.selective.signals import contributions
from selective_zoo import make_layer, make_mamba, sequences, without_states

BOTH = pytest.mark.parametrize("kind", ["mamba", "grouped"])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameters(layer: SelectiveLayer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in layer.named_parameters()}


def selection(layer: SelectiveLayer, rank: int) -> StateChange:
    """Other states in each group."""
    groups = 1 if isinstance(layer, Mamba) else 2
    rows = [random(layer.d_state, seed=g).argsort()[:rank].sort().values for g in range(groups)]
    return StateChange(torch.stack(rows), layer.d_state)


def mixing(layer: SelectiveLayer, rank: int) -> StateChange:
    """Random mixtures in each group."""
    index = selection(layer, rank).index
    assert index is not None
    shape = (len(index), rank, layer.d_state)
    return StateChange(index, layer.d_state, random(*shape, seed=5), random(*shape, seed=6))


def described(layer: SelectiveLayer, change: StateChange, x: Tensor) -> Tensor:
    """What passes through the states that `change` describes."""
    s = layer.signals(x)
    B, C = (torch.einsum("blgn,grn->blgr", m, change.matrices(what)) for m, what in ((s.B, "B"), (s.C, "C")))
    assert change.index is not None
    A = s.A.gather(-1, change.index[:, None].expand(-1, s.A.shape[1], -1))
    (p,) = contributions(s.with_states(A, B, C), torch.arange(x.shape[1]))
    return torch.einsum("sgdn,sgn->sd", p.M, p.C).unflatten(0, (len(x), -1))


@BOTH
@pytest.mark.parametrize("make", [selection, mixing])
@pytest.mark.parametrize("rank", [1, 3])
def test_changed_parameters_make_the_layer_that_was_described(
    kind: str, make: Callable[..., StateChange], rank: int
) -> None:
    layer, x = make_layer(kind), sequences(2, 15)
    change = make(layer, rank)
    tensors, moments = layer.layout().changed(parameters(layer), change)
    assert tensors.keys() == moments.keys() == layer.layout().parameters.keys()
    assert all(isinstance(moments[name], IndexMap) for name in tensors if name == "A_log" or make is selection)
    passed_by = 0.0
    if isinstance(layer, Mamba):
        passed_by = functional_call(layer, without_states(layer, range(layer.d_state)), x)
    expected = described(layer, change, x) + passed_by
    torch.testing.assert_close(functional_call(layer, tensors, x), expected, rtol=1e-10, atol=1e-10)


@BOTH
def test_after_a_selection_moments_are_those_of_the_same_rows(kind: str) -> None:
    layer = make_layer(kind)
    change = selection(layer, 2)
    values = parameters(layer)
    tensors, moments = layer.layout().changed(values, change)
    for name, moment_map in moments.items():
        for order in (1, 2):  # whatever selects the parameter selects its moments
            assert torch.equal(moment_map.carry(values, order), tensors[name])
        with pytest.raises(KeyError):
            moment_map.carry({"another": values[name]}, 1)


@BOTH
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_new_values_and_moments_have_the_dtype_of_the_old_ones(kind: str, dtype: torch.dtype) -> None:
    layer = make_layer(kind).to(dtype)
    for change in (selection(layer, 2), mixing(layer, 2)):
        tensors, moments = layer.layout().changed(parameters(layer), change)
        for name, tensor in tensors.items():
            moved = moments[name].carry(parameters(layer), 2)
            assert (tensor.dtype, moved.dtype, moved.shape) == (dtype, dtype, tensor.shape)
            assert tensor.is_contiguous()
            assert moved.is_contiguous()


def alike(layer: Mamba) -> Mamba:
    """The layer with states that are forgotten at one rate, so that any change of basis leaves it as it is."""
    with torch.no_grad():
        layer.A_log.copy_(layer.A_log[:, :1].expand_as(layer.A_log))
    return layer


def gradients(layer: Mamba, tensors: dict[str, Tensor], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    values = {name: tensors.get(name, p).detach().clone().requires_grad_() for name, p in parameters(layer).items()}
    y = functional_call(layer, values, x)
    names = list(tensors or values)
    return y, dict(zip(names, torch.autograd.grad(y.square().sum(), [values[n] for n in names]), strict=True))


def test_full_rank_mixing_transports_the_gradient_autograd_would_give() -> None:
    layer, x = alike(make_mamba()), sequences(3, 12)
    F = random(1, 6, 6)
    change = StateChange(torch.arange(6)[None], 6, F, torch.linalg.inv(F).mT)
    tensors, moments = layer.layout().changed(parameters(layer), change)
    y, old = gradients(layer, {}, x)
    z, new = gradients(layer, tensors, x)
    torch.testing.assert_close(z, y, rtol=1e-9, atol=1e-9)
    assert isinstance(moments["x_proj.weight"], MomentMap)
    torch.testing.assert_close(moments["x_proj.weight"].carry(old, 1), new["x_proj.weight"], rtol=1e-9, atol=1e-9)
    assert torch.equal(old["x_proj.weight"][: layer.dt_rank], moments["x_proj.weight"].carry(old, 1)[: layer.dt_rank])


def test_a_projection_transports_gradients_by_its_dual_matrices() -> None:
    layout = Layout({"both": (0, (States("B", 2), Fixed(1), States("C", 2)))}, mixes=True, rotates=True)
    W, T = random(2, 3, 5, seed=1), random(2, 3, 5, seed=2)
    change = StateChange(None, 5, W, T)
    assert (change.rank, change.mixes) == (3, True)
    old = {"both": random(21, 4, seed=3)}
    tensors, moments = layout.changed(old, change)
    fixed = torch.ones(1, 1, dtype=torch.float64)
    forth, back = torch.block_diag(*W, fixed, *T), torch.block_diag(*T, fixed, *W)
    torch.testing.assert_close(tensors["both"], forth @ old["both"])
    torch.testing.assert_close(moments["both"].carry(old, 1), back @ old["both"])
    torch.testing.assert_close(moments["both"].carry(old, 2), back.square() @ old["both"])


def test_gradients_of_readouts_are_exact_where_the_kept_states_stay_as_they_are() -> None:
    layer, x = make_mamba(), sequences(3, 12)
    index = torch.tensor([[0, 2, 5]])
    selected = StateChange(index, 6)
    tensors, _ = layer.layout().changed(parameters(layer), selected)
    for to_C in (None, random(1, 3, 6)):
        _, moments = layer.layout().changed(parameters(layer), StateChange(index, 6, None, to_C))
        # The loss is linear in C, so that its gradient is the same whatever stands in C.
        weights = random(3, 12, 4, seed=9)
        values = {n: p.requires_grad_() for n, p in parameters(layer).items()}
        (old,) = torch.autograd.grad((functional_call(layer, values, x) * weights).sum(), values["x_proj.weight"])
        small = values | {n: t.requires_grad_() for n, t in tensors.items()}
        (new,) = torch.autograd.grad((functional_call(layer, small, x) * weights).sum(), small["x_proj.weight"])
        carried = moments["x_proj.weight"].carry({"x_proj.weight": old}, 1)
        torch.testing.assert_close(carried[-3:], new[-3:], rtol=1e-9, atol=1e-12)


@BOTH
def test_second_moments_of_mixed_rows_stay_positive(kind: str) -> None:
    layer = make_layer(kind)
    values = {name: p.square() for name, p in parameters(layer).items()}
    _, moments = layer.layout().changed(parameters(layer), mixing(layer, 3))
    assert any(isinstance(m, MomentMap) for m in moments.values())
    for moment_map in moments.values():
        assert (moment_map.carry(values, 2) > 0).all()


def test_rows_of_a_state_are_measured_over_all_parameters_that_hold_it() -> None:
    layout = Layout(
        {
            "weight": (1, (Fixed(2), States("B", 2), States("C", 2))),
            "bias": (0, (States("C", 2), States("B", 2))),
            "A": (0, (States("A"),)),
        }
    )
    values = {"weight": random(3, 14), "bias": random(12, seed=1), "A": random(3)}
    B, C = layout.row_norms(values, 3)
    joined = torch.cat([values["weight"][:, 2:], values["bias"][[*range(6, 12), *range(6)]][None]])
    torch.testing.assert_close(torch.stack([B, C]), joined.square().sum(0).sqrt().view(2, 2, 3))


@BOTH
def test_a_change_leaves_the_values_it_was_made_from_alone(kind: str) -> None:
    layer = make_layer(kind)
    values = parameters(layer)
    before = copy.deepcopy(values)
    for change in (selection(layer, 2), mixing(layer, 2)):
        tensors, _ = layer.layout().changed(values, change)
        for tensor in tensors.values():
            tensor.zero_()
    assert all(torch.equal(values[name], before[name]) for name in values)
