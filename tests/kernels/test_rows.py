"""Dense layers whose rows begin at cache lines: torch's own layer, with its gradients."""

from __future__ import annotations

import pytest
import torch
from recurrences import assert_close_results, results_and_gradients
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ShapeError
from gramian.kernels import linear_in_lines
from gramian.kernels.rows import in_lines


def example(bias: bool, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    x, weight, offset = torch.randn(3, 5, 7, generator=g), torch.randn(11, 7, generator=g), torch.randn(11, generator=g)
    return tuple(t.to(dtype) for t in ((x, weight, offset) if bias else (x, weight)))


@pytest.mark.parametrize("bias", [True, False])
def test_it_is_torch_s_layer(bias: bool) -> None:
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        tensors = example(bias, dtype)
        ours, theirs = (results_and_gradients(lambda t, f=f: (f(*t),), tensors) for f in (linear_in_lines, F.linear))
        assert_close_results(ours, theirs, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_begin_at_lines_of_64_bytes(dtype: torch.dtype) -> None:
    y = linear_in_lines(*example(True, dtype))
    assert y.shape == (3, 5, 11)
    assert y.stride(1) * y.element_size() % 64 == 0
    assert y.stride() == (5 * y.stride(1), y.stride(1), 1)
    assert in_lines(y, 4, 16).is_contiguous()


@pytest.mark.parametrize("bias", [True, False])
def test_the_operator_passes_the_checks_of_torch(bias: bool) -> None:
    x, *parameters = example(bias)
    leaves = [t.requires_grad_() for t in (x.flatten(0, 1), *parameters)]
    torch.library.opcheck(torch.ops.gramian.rows_in_lines.default, (*leaves, *([] if bias else [None])))


def test_only_gradients_that_are_wanted_are_made() -> None:
    x, weight = example(False)
    bias = torch.zeros(11, dtype=torch.float64)
    linear_in_lines(x, weight.requires_grad_(), bias).sum().backward()
    assert x.grad is None
    assert bias.grad is None
    torch.testing.assert_close(weight.grad, x.sum((0, 1)).expand(11, 7))


def test_one_row_has_no_axis_before_it() -> None:
    x, weight, bias = example(True)
    torch.testing.assert_close(linear_in_lines(x[0, 0], weight, bias), F.linear(x, weight, bias)[0, 0])


def test_autocast_and_half_precision_are_torch_s() -> None:
    x, weight, bias = example(True, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear_in_lines(x, weight, bias), F.linear(x, weight, bias))
    half = [t.bfloat16() for t in (x, weight, bias)]
    assert torch.equal(linear_in_lines(*half), F.linear(*half))
    assert linear_in_lines(x[:0], weight, bias).shape == (0, 5, 11)


def test_what_does_not_fit_is_refused() -> None:
    x, weight = example(False)
    with pytest.raises(ShapeError, match=r"x \(3, 5, 6\) and weight \(11, 7\) were given"):
        linear_in_lines(x[..., :6], weight)
