"""An LRU after a cut: the scale of its parameters, its forms, and training that goes on."""

from __future__ import annotations

import copy

import pytest
import torch
from lru_examples import BOTH, Realization, inputs, make_lru
from torch import Tensor

from gramian.layers.lru import LRU
from gramian.systems.projections import modal


def test_rows_of_B_keep_their_typical_length() -> None:
    def typical(layer: LRU) -> Tensor:
        return torch.hypot(layer.B_re, layer.B_im).square().sum(1).sqrt().log().mean().exp()

    layer = make_lru()
    before = typical(layer)
    layer.apply_(layer.propose(3))
    row = torch.hypot(layer.B_re, layer.B_im).square().sum(1).sqrt()
    torch.testing.assert_close(row, before.expand(3))


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
