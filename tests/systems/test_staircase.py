"""Products with a staircase are products with the matrix, whose zeros it does not hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gramian.systems import staircase
from gramian.systems.gramians import controllability_factor, observability_gramian
from gramian.systems.staircase import Staircase
from systems_zoo import KINDS, normal, random_system


@pytest.fixture(params=[1, 3, 8, 1000])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(staircase, "_WIDTH", request.param)
    return int(request.param)


def ending(coordinates: int, ends: list[int], k: int, dtype: torch.dtype) -> Tensor:
    """A matrix whose rows of mode i are zero from column ``ends[i]`` on."""
    alive = torch.arange(k) < torch.tensor(ends)[:, None]
    return (numbers(coordinates, len(ends), k, dtype=dtype) * alive).flatten(0, 1)


def numbers(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return normal(*shape, seed=seed) if dtype.is_complex else normal(*shape, seed=seed).real


CASES = [
    (1, [3, 1, 2], 3),
    (2, [7, 3, 5, 1], 7),
    (2, [4, 4, 4], 4),
    (1, [2, 0, 5, 5, 3], 6),  # a row of zeros; a column of zeros
    (2, [1], 2),
    (2, [2 * i + 2 for i in reversed(range(13))], 26),
]


@pytest.mark.usefixtures("width")
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("coordinates", "ends", "k"), CASES)
def test_products_are_those_with_the_matrix(coordinates: int, ends: list[int], k: int, dtype: torch.dtype) -> None:
    F = ending(coordinates, ends, k, dtype)
    stairs, order = Staircase.of(F, coordinates), len(F)
    assert stairs.width == k
    X, M = numbers(k, 3, dtype=dtype), numbers(4, order, dtype=dtype, seed=1)
    torch.testing.assert_close(stairs.restored(stairs.times(X)), F @ X, rtol=0, atol=1e-13)
    torch.testing.assert_close(stairs.rtimes(stairs.ordered(M)), M @ F, rtol=0, atol=1e-13)
    lengths = stairs.restored(stairs.row_lengths()[:, None])[:, 0]
    torch.testing.assert_close(lengths, torch.linalg.vector_norm(F, dim=1), rtol=1e-14, atol=0)
    Q = numbers(order, order, dtype=dtype, seed=2)
    Q = Q + Q.mH
    ordered = stairs.ordered(stairs.ordered(Q).mT).mT
    torch.testing.assert_close(stairs.congruence(ordered).tril(), (F.mH @ Q @ F).tril(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 19, 70])
def test_factors_of_the_recurrence_are_half_zeros(kind: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staircase, "_WIDTH", 2)
    system = random_system(n, 3, 2, kind=kind)
    F = controllability_factor(system)
    stairs = Staircase.of(F, 2 if kind == "real_part" else 1)
    held = sum(block.numel() for block in stairs.blocks)
    assert held <= F.numel() * (0.5 + 1.5 / n)
    Q = observability_gramian(system, stairs.modes)
    torch.testing.assert_close(stairs.ordered(stairs.ordered(observability_gramian(system)).mT).mT, Q)
