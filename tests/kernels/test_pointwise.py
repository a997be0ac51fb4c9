"""Activation, dropout and gate in one pass: the plain functions, with dropout by counters."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ConfigError
from gramian.kernels.pointwise import dropout, dropout_in_torch, gelu_dropout, glu_dropout_add, kept, new_seed

SEED = torch.tensor([-1234567890123456789])
DTYPES = [(torch.float64, 1e-14), (torch.float32, 2e-6)]


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def assert_same_with_gradients(one, two, tensors: tuple[Tensor, ...], tolerance: float) -> None:
    leaves = [t.requires_grad_() for t in tensors]
    y, expected = one(*leaves), two(*leaves)
    g = normal(*y.shape, dtype=y.dtype, seed=5)
    pairs = zip(
        (y, *torch.autograd.grad(y, leaves, g)), (expected, *torch.autograd.grad(expected, leaves, g)), strict=True
    )
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", [(1,), (16,), (3, 5, 11), (2, 9000), (0, 4)])
def test_gelu_and_dropout_are_the_plain_ones(shape, dtype: torch.dtype, tolerance: float, rate: float) -> None:
    assert_same_with_gradients(
        lambda x: gelu_dropout(x, rate, SEED),
        lambda x: dropout_in_torch(F.gelu(x), rate, SEED),
        (normal(*shape, dtype=dtype),),
        tolerance,
    )


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3, 5, 11), (3, 40), (700, 20), (2, 9000), (0, 4)])
def test_gate_dropout_and_skip_are_the_plain_ones(shape, dtype: torch.dtype, tolerance: float, rate: float) -> None:
    z, skip = normal(*shape[:-1], 2 * shape[-1], dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    assert_same_with_gradients(
        lambda z, skip: glu_dropout_add(z, skip, rate, SEED),
        lambda z, skip: skip + dropout_in_torch(F.glu(z), rate, SEED),
        (z, skip),
        tolerance,
    )


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.9])
def test_dropout_keeps_what_its_specification_keeps(rate: float) -> None:
    for dtype in (torch.float32, torch.float64):
        x = normal(7, 3001, dtype=dtype)
        assert torch.equal(dropout(x, rate, SEED), dropout_in_torch(x, rate, SEED))
        assert torch.equal(dropout(x, rate, SEED) != 0, kept(SEED, x.shape, rate))


def test_gradients_are_the_derivatives_of_the_values() -> None:
    x, z = normal(3, 5).requires_grad_(), normal(3, 10).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dropout(x, 0.4, SEED), (x,))
    assert torch.autograd.gradcheck(lambda x: gelu_dropout(x, 0.4, SEED), (x,))
    assert torch.autograd.gradcheck(lambda z, x: glu_dropout_add(z, x, 0.4, SEED), (z, x))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_the_share_that_is_dropped_is_the_rate(rate: float) -> None:
    n, seeds = 100_000, 40
    kept_counts = torch.stack([kept(torch.tensor([seed]), torch.Size([n]), rate).sum() for seed in range(seeds)])
    share, deviation = 1 - kept_counts.double() / n, math.sqrt(rate * (1 - rate) / n)
    assert (share - rate).abs().max() < 5 * deviation
    assert 0.6 < share.std() / deviation < 1.4


def test_places_and_seeds_are_independent() -> None:
    n = 200_000
    masks = torch.stack([kept(torch.tensor([seed]), torch.Size([n]), 0.5).double() - 0.5 for seed in (0, 1, 2, 2**40)])
    limit = 5 * 0.25 / math.sqrt(n)
    for lag in (1, 2, 7, 8, 16, 256, 65536):  # between places
        assert (masks[:, lag:] * masks[:, :-lag]).mean(1).abs().max() < limit, lag
    for a in range(4):  # between seeds
        for b in range(a):
            assert abs(float((masks[a] * masks[b]).mean())) < limit


def test_the_generator_of_torch_decides() -> None:
    x = normal(50, 50)
    torch.manual_seed(3)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(3)
    again = dropout(x, 0.5)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    dropout(x, 0.0)  # takes no random number
    assert torch.equal(dropout(x, 0.5), first)
    assert new_seed().dtype == torch.int64


def test_threads_change_nothing() -> None:
    x, before = normal(100, 1000, dtype=torch.float32), torch.get_num_threads()
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(gelu_dropout(x, 0.2, SEED))
    torch.set_num_threads(before)
    assert torch.equal(*results)


def test_half_precision_is_computed_in_single() -> None:
    x, z = normal(4, 6, dtype=torch.bfloat16), normal(4, 12, dtype=torch.bfloat16)
    skip = normal(4, 6, dtype=torch.float32, seed=2)
    assert torch.equal(gelu_dropout(x, 0.2, SEED), gelu_dropout(x.float(), 0.2, SEED).bfloat16())
    assert torch.equal(glu_dropout_add(z, skip, 0.2, SEED), glu_dropout_add(z.float(), skip, 0.2, SEED))


def test_a_rate_that_is_none_is_refused() -> None:
    for rate in (-0.1, 1.0, math.nan):
        with pytest.raises(ConfigError, match="needed: 0 <= rate < 1"):
            dropout(normal(3), rate)


def test_the_operators_pass_the_checks_of_torch() -> None:
    x, z = normal(3, 5).requires_grad_(), normal(3, 10).requires_grad_()
    torch.library.opcheck(torch.ops.gramian.gelu_dropout.default, (x, 1 << 22, SEED))
    torch.library.opcheck(torch.ops.gramian.glu_dropout_add.default, (z, x, 1 << 22, SEED))
    torch.library.opcheck(torch.ops.gramian.dropout.default, (x, 1 << 22, SEED))
