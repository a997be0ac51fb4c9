"""What the states contribute is exactly the layer's output, and what deleting them takes from it."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from gramian.layers.selective import signals as module
from gramian.layers.selective.signals import Signals, contributions
from selective_zoo import (
    effects_by_hand,
    make_grouped,
    make_layer,
    make_mamba,
    sequences,
    states_by_hand,
    without_states,
)

EVERY = torch.arange(24)
CLOSE = {"rtol": 1e-11, "atol": 1e-11}


def whole(s: Signals, steps: torch.Tensor = EVERY) -> torch.Tensor:
    """What passes through all states of all groups, ``(batch, steps, d_out)``."""
    pieces = list(contributions(s, steps))
    assert torch.equal(torch.cat([p.steps for p in pieces]), steps)
    outputs = [torch.einsum("sgdn,sgn->sd", p.M, p.C).unflatten(0, (len(s.u), -1)) for p in pieces]
    return torch.cat(outputs, 1)


def test_contributions_and_the_feed_through_are_the_output_of_mamba() -> None:
    layer, x = make_mamba(), sequences(3)
    s = layer.signals(x)
    skip = torch.einsum("dgp,blgp,blgp->bld", s.readout, s.gate, layer.D.detach() * s.u)
    torch.testing.assert_close(whole(s) + skip, layer(x).detach(), **CLOSE)


def test_contributions_of_all_groups_are_the_output() -> None:
    layer, x = make_grouped(), sequences(3)
    torch.testing.assert_close(whole(layer.signals(x)), layer(x).detach(), **CLOSE)


@pytest.mark.parametrize("kind", ["mamba", "grouped"])
def test_deleting_a_state_takes_exactly_its_contribution_from_the_output(kind: str) -> None:
    layer, x = make_layer(kind), sequences(3)
    s = layer.signals(x)
    effects = effects_by_hand(s)
    for group in range(s.groups):
        for dropped in ([0], [3], [1, 4]):
            without = functional_call(layer, without_states(layer, dropped, group), x)
            taken = effects[:, :, group][..., dropped].sum(-1)
            torch.testing.assert_close(layer(x) - without, taken, **CLOSE)


@pytest.mark.parametrize("kind", ["mamba", "grouped"])
@pytest.mark.parametrize("room", [1, 3000, 10**9])
def test_pieces_of_any_size_are_the_loop_over_all_states(kind: str, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_BYTES", room)
    s = make_layer(kind).signals(sequences(3))
    steps = torch.tensor([0, 2, 3, 11, 22])
    pieces = list(contributions(s, steps))
    assert len(pieces) == {1: 5, 3000: len(pieces), 10**9: 1}[room]
    h, e = states_by_hand(s), effects_by_hand(s)
    for p in pieces:
        torch.testing.assert_close(p.h, h[:, p.steps].flatten(0, 1), **CLOSE)
        torch.testing.assert_close(p.M * p.C[:, :, None, :], e[:, p.steps].flatten(0, 1), **CLOSE)
    assert torch.equal(torch.cat([p.steps for p in pieces]), steps)


def test_half_precision_is_computed_in_single() -> None:
    layer = make_mamba(dtype=torch.bfloat16)
    s = layer.signals(sequences(2).bfloat16())
    assert s.u.dtype == s.A.dtype == torch.bfloat16
    (p,) = contributions(s, EVERY)
    assert p.M.dtype == p.C.dtype == p.h.dtype == torch.float32
    exact = Signals(*(getattr(s, key).double() for key in ("u", "dt", "A", "B", "C", "gate", "readout")))
    (expected,) = contributions(exact, EVERY)
    torch.testing.assert_close(p.M.double(), expected.M, rtol=1e-4, atol=1e-5)


def test_a_sketch_keeps_sums_of_squares_on_average_and_narrow_outputs_as_they_are() -> None:
    s = make_mamba(d_model=24).signals(sequences(2, 8, 24))
    generator = torch.Generator().manual_seed(0)
    assert s.sketched(24, generator) is s
    true = whole(s, torch.arange(8)).square().sum()
    ratios = [float(whole(s.sketched(6, generator), torch.arange(8)).square().sum() / true) for _ in range(400)]
    spread = torch.tensor(ratios).std() / 400**0.5
    assert abs(sum(ratios) / 400 - 1) < 4 * spread
    assert spread < 0.05


def test_signals_of_a_layer_take_no_part_in_gradients() -> None:
    s = make_mamba().signals(sequences(1))
    for key in ("u", "dt", "A", "B", "C", "gate", "readout"):
        assert not getattr(s, key).requires_grad
