"""Batch normalisation by the faster kernel is torch's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gramian.kernels.normalization import normalize_rows, normalize_rows_in_torch


def rows_of(rows: int, channels: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    g = torch.Generator().manual_seed(rows)
    return (3 * torch.randn(rows, channels, generator=g, dtype=torch.float64) + 20).to(dtype)


@pytest.mark.parametrize(("rows", "channels"), [(2, 1), (100, 8), (6, 8), (1200, 5), (33, 40), (1030, 16)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_values_statistics_and_gradients_are_those_of_torch(
    rows: int, channels: int, dtype: torch.dtype, tolerance: float
) -> None:
    x = rows_of(rows, channels, dtype).requires_grad_()
    y, mean, variance = normalize_rows(x, 1e-5)
    module = nn.BatchNorm1d(channels, affine=False, momentum=1.0).to(dtype)
    expected = module(x)
    g = torch.randn(rows, channels, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=10 * tolerance)
    torch.testing.assert_close(mean, module.running_mean, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(variance * rows / (rows - 1), module.running_var, rtol=tolerance, atol=tolerance)
    ours, theirs = (torch.autograd.grad(result, x, g)[0] for result in (y, expected))
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=10 * tolerance)


def test_gradients_are_the_derivatives_of_the_values() -> None:
    x = rows_of(7, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: normalize_rows(x, 1e-3)[0], (x,))
    assert torch.autograd.gradcheck(lambda x: normalize_rows_in_torch(x, 1e-3)[0], (x,))


def test_a_large_common_offset_does_not_drown_the_variance() -> None:
    x = rows_of(1000, 4, torch.float32)
    y, _, variance = normalize_rows(x + 3000, 1e-5)
    exact = normalize_rows_in_torch((x + 3000).double(), 1e-5)
    torch.testing.assert_close(variance.double(), exact[2], rtol=1e-4, atol=0)
    torch.testing.assert_close(y.double(), exact[0], rtol=0, atol=1e-3)


def test_two_runs_are_bit_equal_whatever_the_threads() -> None:
    x, before, results = rows_of(5000, 8, torch.float32).requires_grad_(), torch.get_num_threads(), []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        y = normalize_rows(x, 1e-5)[0]
        results.append((y.detach(), *torch.autograd.grad(y.square().sum() + y[0].sum(), x)))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_operator_passes_the_checks_of_torch() -> None:
    torch.library.opcheck(torch.ops.gramian.normalize_rows.default, (rows_of(7, 3).requires_grad_(), 1e-3))
