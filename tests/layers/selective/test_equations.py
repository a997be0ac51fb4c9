"""The normal equations are those of feature matrices that are written out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gramian.layers.selective.equations import principal, readout_equations, unknowns, write_equations
from gramian.layers.selective.samples import Sample
from gramian.layers.selective.signals import Signals, state_output
from gramian.systems.regression import NormalEquations
from selective_zoo import make_layer, sequences, states_by_hand

BOTH = pytest.mark.parametrize("kind", ["mamba", "grouped"])
STEPS = torch.tensor([0, 3, 4, 10, 17])


def seen_by(kind: str, count: int = 2, alike: bool = False) -> tuple[list[Signals], Callable[[], Iterable[Sample]]]:
    """Signals of a few batches, and the samples of them; states of a channel may be forgotten `alike`."""
    layer = make_layer(kind)
    found = [layer.signals(sequences(3, 20, seed=i)) for i in range(count)]
    if alike:
        found = [replace(s, A=s.A[..., :1].expand_as(s.A)) for s in found]
    return found, lambda: [Sample(s, STEPS, None) for s in found]


def outputs(s: Signals, C: Tensor, group: int) -> Tensor:
    """What states of a group put out for readouts C, one column a state: ``(batch * steps * d_out, n)``."""
    h = states_by_hand(s)[:, STEPS, group]
    e = torch.einsum("dp,btp,btpn,btn->btdn", s.readout[:, group], s.gate[:, STEPS, group], h, C[:, STEPS])
    return e.flatten(0, 2)


def target(s: Signals, group: int) -> Tensor:
    return outputs(s, s.C[:, :, group], group).sum(-1)


def of_data(features: list[Tensor], targets: list[Tensor]) -> NormalEquations:
    Phi, y = torch.cat(features), torch.cat(targets)
    return NormalEquations(Phi.mT @ Phi, Phi.mT @ y, float(y @ y))


def assert_same(found: NormalEquations, expected: NormalEquations) -> None:
    torch.testing.assert_close(found.gram, expected.gram, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.cross, expected.cross, rtol=1e-10, atol=1e-10)
    assert found.energy == pytest.approx(expected.energy, rel=1e-10)


def keep_some(s: Signals) -> Signals:
    """Three states, of which the inputs are mixtures."""
    return s.with_states(s.A[..., [0, 2, 4]], s.B[..., [0, 2, 4]] - 2 * s.B[..., [1, 1, 3]], s.C)


@BOTH
@pytest.mark.parametrize("components", [2, 99])
def test_readout_equations_are_those_of_the_features(kind: str, components: int) -> None:
    signals, seen = seen_by(kind)
    basis = principal(seen, "C", components)
    found = readout_equations(seen, keep_some, basis)
    assert len(found) == signals[0].groups
    for g, equations in enumerate(found):
        features, targets = [], []
        for s in signals:
            c = s.C[:, :, g] @ basis[g]
            kept = keep_some(s)
            columns = [
                outputs(kept, c[..., j : j + 1].expand(-1, -1, 3), g)[:, n]
                for n in range(3)
                for j in range(c.shape[-1])
            ]
            features.append(torch.stack(columns, -1))
            targets.append(target(s, g))
        assert_same(equations, of_data(features, targets))


@BOTH
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("components", [2, 99])
def test_write_equations_are_those_of_the_features(kind: str, components: int, alike: bool) -> None:
    signals, seen = seen_by(kind, alike=alike)
    basis = principal(seen, "B", components)

    def readout(s: Signals) -> Tensor:
        return s.C[..., :3] + s.C[..., 1:4]

    for g, equations in enumerate(write_equations(seen, keep_some, readout, basis)):
        features, targets = [], []
        for s in signals:
            b = torch.einsum("blgn,gnq->blgq", s.B, basis)
            columns = []
            for n, state in enumerate((0, 2, 4)):
                for j in range(b.shape[-1]):
                    single = s.with_states(s.A[..., [state]], b[..., [j]], s.C)
                    columns.append(outputs(single, readout(s)[:, :, g, n : n + 1], g)[:, 0])
            features.append(torch.stack(columns, -1))
            targets.append(target(s, g))
        assert_same(equations, of_data(features, targets))


@BOTH
def test_the_output_through_the_states_is_that_of_each_group(kind: str) -> None:
    signals, _ = seen_by(kind, 1)
    y = state_output(signals[0], STEPS)
    for g in range(signals[0].groups):
        torch.testing.assert_close(y[:, g].flatten(), target(signals[0], g), rtol=1e-11, atol=1e-11)


@BOTH
@pytest.mark.parametrize("what", ["B", "C"])
def test_a_basis_is_orthonormal_and_holds_most_of_what_was_seen(kind: str, what: str) -> None:
    signals, seen = seen_by(kind)
    N = signals[0].d_state
    for most in (1, 3, N, N + 5):
        basis = principal(seen, what, most)
        assert basis.shape == (signals[0].groups, N, min(most, N))
        assert basis.dtype == torch.float64
        for g, U in enumerate(basis):
            torch.testing.assert_close(U.mT @ U, torch.eye(U.shape[1], dtype=torch.float64))
            x = torch.cat([getattr(s, what)[:, STEPS, g].flatten(0, 1) for s in signals])
            lost = (x - x @ U @ U.mT).square().sum()
            assert float(lost) == pytest.approx(float(torch.linalg.svdvals(x)[most:].square().sum()), abs=1e-9)


def test_more_data_allow_more_unknowns_within_limits() -> None:
    (s,), _ = seen_by("mamba", 1)

    def of_tokens(count: int) -> int:
        u = torch.zeros(1, count, 1, 1)
        return unknowns(lambda: [Sample(replace(s, u=u), STEPS, None)] * 2)

    assert [of_tokens(count) for count in (1, 200, 1024, 1536, 10_000)] == [256, 256, 512, 768, 1024]
