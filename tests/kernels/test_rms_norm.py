"""The root mean square norm is torch's, with its gradients."""

from __future__ import annotations

import pytest
import torch
from recurrences import assert_close_results, results_and_gradients
from torch import Tensor

from gramian.errors import ShapeError
from gramian.kernels import rms_norm
from gramian.kernels.rms_norm import rms_norm_in_torch


def example(channels: int = 12, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, channels, generator=g, dtype=torch.float64)
    return x.to(dtype), (torch.rand(channels, generator=g, dtype=torch.float64) + 0.5).to(dtype)


@pytest.mark.parametrize("channels", [1, 12, 51, 128])
def test_compiled_loops_are_torch_s_rms_norm(channels: int) -> None:
    """Outputs and gradients, also of more rows than a task has, and where rows are columns of a larger matrix."""
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        x, weight = example(channels, dtype)
        many = x.repeat(9, 1, 1) * torch.arange(1, 28, dtype=dtype)[:, None, None]
        for given in (x, many, torch.cat([x, x], -1)[..., :channels], x.mT.contiguous().mT):
            fast, slow = (
                results_and_gradients(lambda t, run=run: (run(*t, 1e-3),), (given, weight))
                for run in (rms_norm, rms_norm_in_torch)
            )
            assert_close_results(fast, slow, tolerance)


def test_gradients_are_the_derivatives_of_the_values() -> None:
    leaves = tuple(t.requires_grad_() for t in example())
    assert torch.autograd.gradcheck(lambda *t: rms_norm(*t, 1e-3), leaves)


def test_nothing_in_nothing_out() -> None:
    x, weight = (t.requires_grad_() for t in example())
    out = rms_norm(x[:, :0], weight, 1e-5)
    assert out.shape == (3, 0, 12)
    out.sum().backward()
    assert not weight.grad.any()


def test_the_operator_passes_the_checks_of_torch() -> None:
    tensors = tuple(t.requires_grad_() for t in example())
    torch.library.opcheck(torch.ops.gramian.rms_norm.default, (*tensors, 1e-5))


def test_half_precision_is_computed_in_float32() -> None:
    x, weight = example(dtype=torch.bfloat16)
    found = rms_norm(x, weight.float(), 1e-5)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, rms_norm(x.float(), weight.float(), 1e-5).bfloat16())


def test_two_runs_are_bit_equal() -> None:
    x, weight = example(51, torch.float32)
    x = x.repeat(40, 1, 1)
    first, second = (results_and_gradients(lambda t: (rms_norm(*t, 1e-5),), (x, weight)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_what_does_not_fit_is_refused() -> None:
    x, weight = example()
    with pytest.raises(ShapeError, match=r"weight \(channels,\)"):
        rms_norm(x, weight[:3], 1e-5)
