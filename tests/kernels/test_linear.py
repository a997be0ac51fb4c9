"""The dense layer with a compiled gradient is torch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.kernels.linear import linear


def example(rows: int, inputs: int, outputs: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(rows)
    shapes = ((rows, inputs), (outputs, inputs), (outputs,))
    return tuple(torch.randn(s, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 5), (1025, 8, 16), (513, 16, 32), (10, 17, 33)])
def test_values_and_gradients_are_those_of_torch(shape, dtype: torch.dtype, tolerance: float) -> None:
    tensors = example(*shape, dtype)
    y, expected = linear(*tensors), F.linear(*tensors)
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    gradients = zip(torch.autograd.grad(y, tensors, g), torch.autograd.grad(expected, tensors, g), strict=True)
    for ours, theirs in gradients:
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance * 10)


def test_gradients_are_the_derivatives_of_the_values() -> None:
    assert torch.autograd.gradcheck(linear, example(6, 3, 5))


def test_leading_dimensions_are_kept() -> None:
    x, W, b = example(12, 3, 5)
    torch.testing.assert_close(linear(x.view(2, 1, 6, 3), W, b), F.linear(x.view(2, 1, 6, 3), W, b))
    assert linear(x[:0].view(2, 0, 3), W, b).shape == (2, 0, 5)


def test_autocast_is_heeded() -> None:
    x, W, b = example(12, 3, 5, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, W, b).dtype == torch.bfloat16


def test_the_operator_passes_the_checks_of_torch() -> None:
    torch.library.opcheck(torch.ops.gramian.linear.default, example(6, 3, 5))
