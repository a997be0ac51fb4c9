"""Linear attention: the equations of each gate, step by step the same as at once, and a basis that does not matter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from layer_checks import (
    assert_autocast_changes_little,
    assert_one_graph,
    assert_pieces_are_the_whole,
    assert_steps_are_the_sequence,
    sequences,
)

from gramian.errors import ConfigError, ShapeError
from gramian.layers.linear_attention import LinearAttention

GATES = ("fixed", "head", "key")


def layer(gate: str, **options: Any) -> LinearAttention:
    torch.manual_seed(0)
    return LinearAttention(12, **{"d_state": 6, "n_heads": 3, "gate": gate, **options}).double()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("gate", GATES)
def test_steps_are_the_sequence(gate: str, batch: int) -> None:
    for length in (1, 2, 70):
        assert_steps_are_the_sequence(layer(gate), sequences(batch, length, 12))


@pytest.mark.parametrize("gate", GATES)
def test_pieces_are_the_whole(gate: str) -> None:
    assert_pieces_are_the_whole(layer(gate, d_value=5), sequences(2, 41, 12))


@pytest.mark.parametrize("gate", GATES)
def test_it_is_what_its_equations_say(gate: str) -> None:
    attention, u = layer(gate, d_value=5), sequences(2, 9, 12)
    q, k, v = (m(u).unflatten(-1, (3, -1)) for m in (attention.q_proj, attention.k_proj, attention.v_proj))
    if gate == "fixed":
        a = (1 - 2.0 ** -torch.tensor([5.0, 6.0, 7.0])).double().expand(2, 9, 3)
    else:
        a = torch.sigmoid(attention.gate_proj(u)) ** (1 / 16)
    a = a.unflatten(-1, (3, -1)).expand(2, 9, 3, 6)
    S, y = torch.zeros(2, 3, 5, 6, dtype=torch.float64), []
    for t in range(9):
        S = S @ torch.diag_embed(a[:, t]) + v[:, t, :, :, None] * k[:, t, :, None]
        y.append((S @ q[:, t, :, :, None])[..., 0])
    y = torch.stack(y, 1)
    normal = (y / torch.sqrt(y.square().mean(-1, keepdim=True) + 1e-5)).flatten(2)
    expected = attention.out_proj(normal * torch.nn.functional.silu(attention.g_proj(u)))
    torch.testing.assert_close(attention(u), expected, rtol=1e-6, atol=1e-6 if gate == "fixed" else 1e-9)


def test_decays_that_depend_on_the_input_start_as_the_fixed_ones() -> None:
    fixed, head = layer("fixed").log_gates(sequences(1, 2, 12)), layer("head").log_gates(torch.zeros(1, 2, 12).double())
    torch.testing.assert_close(head, fixed, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("gate", ["fixed", "head"])
def test_a_change_of_basis_of_keys_and_queries_changes_nothing(gate: str) -> None:
    attention, u = layer(gate), sequences(2, 20, 12)
    before = attention(u)
    with torch.no_grad():
        for h in range(3):
            rows = slice(6 * h, 6 * h + 6)
            T = torch.eye(6, dtype=torch.float64) + 0.2 * torch.randn(6, 6, dtype=torch.float64)
            attention.k_proj.weight[rows] = T @ attention.k_proj.weight[rows]
            attention.q_proj.weight[rows] = torch.linalg.inv(T).mT @ attention.q_proj.weight[rows]
    torch.testing.assert_close(attention(u), before)


@pytest.mark.parametrize("gate", GATES)
def test_gradients_are_the_derivatives_of_the_values(gate: str) -> None:
    attention, u = layer(gate, d_state=2, n_heads=2, chunk=2, gate_rank=2), sequences(1, 3, 12).requires_grad_()
    assert torch.autograd.gradcheck(attention, (u,))
    names, values = zip(*attention.named_parameters(), strict=True)
    run = lambda *p: torch.func.functional_call(attention, dict(zip(names, p, strict=True)), (u.detach(),))  # noqa: E731
    assert torch.autograd.gradcheck(run, values, fast_mode=True)


@pytest.mark.parametrize("gate", GATES)
def test_autocast_changes_little(gate: str) -> None:
    assert_autocast_changes_little(layer(gate).float(), sequences(2, 33, 12, torch.float32))


@pytest.mark.parametrize("gate", GATES)
def test_it_compiles_to_one_graph(gate: str) -> None:
    assert_one_graph(layer(gate).float(), sequences(2, 33, 12, torch.float32))


@pytest.mark.parametrize("gate", GATES)
def test_it_says_its_sizes(gate: str) -> None:
    attention = layer(gate, d_value=5)
    assert attention.d_state == 6
    assert attention.initial_state(2).shape == (2, 3, 5, 6)
    assert f"d_state=6, heads=3 of 5, gate='{gate}'" in repr(attention)


def test_what_cannot_be_built_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'head'"):
        layer("heads")
    with pytest.raises(ConfigError, match="more than zero"):
        layer("head", temperature=0.0)
    with pytest.raises(ShapeError, match="without d_value"):
        layer("head", n_heads=5)
    with pytest.raises(ShapeError, match="at least 1 of each"):
        layer("head", d_state=0)
