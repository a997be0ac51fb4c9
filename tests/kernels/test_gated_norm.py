"""The gated normalisation: both orders, in groups, with their gradients."""

from __future__ import annotations

import pytest
import torch
from recurrences import assert_close_results, results_and_gradients
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ShapeError
from gramian.kernels import gated_rms_norm
from gramian.kernels.gated_norm import gated_rms_norm_in_torch


def example(dtype: torch.dtype = torch.float64, channels: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    y, z = torch.randn(2, 3, 5, channels, generator=g, dtype=torch.float64).to(dtype)
    return y, z, torch.rand(channels, generator=g, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("groups", [1, 3])
def test_it_is_torch_s_rms_norm_of_each_group_and_a_gate(groups: int) -> None:
    y, z, weight = example()

    def norm(v: Tensor) -> Tensor:
        return F.rms_norm(v.unflatten(-1, (groups, -1)), (12 // groups,), eps=1e-3).flatten(-2) * weight

    first = gated_rms_norm(y, z, weight, groups=groups, eps=1e-3)
    torch.testing.assert_close(first, norm(y * F.silu(z)))
    last = gated_rms_norm(y, z, weight, groups=groups, gate_first=False, eps=1e-3)
    torch.testing.assert_close(last, norm(y) * F.silu(z))


@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("channels", [12, 51, 96])
def test_compiled_loops_are_the_specification(channels: int, groups: int, gate_first: bool) -> None:
    """Outputs and gradients, also where values and gates are columns of a larger matrix, or transposed."""

    def compiled(t: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (gated_rms_norm(*t, groups=groups, gate_first=gate_first),)

    def specification(t: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (gated_rms_norm_in_torch(*t, groups, gate_first, 1e-5),)

    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        y, z, weight = example(dtype, channels)
        columns = torch.cat([z, y, z], -1)
        apart = columns[..., channels : 2 * channels], columns[..., :channels]
        for given in ((y, z), apart, (y.mT.contiguous().mT, z)):
            fast, slow = (results_and_gradients(run, (*given, weight)) for run in (compiled, specification))
            assert_close_results(fast, slow, tolerance)


def test_one_row_has_no_axis_before_it() -> None:
    y, z, weight = (t.requires_grad_() for t in example())
    whole = gated_rms_norm(y, z, weight)[0, 0]
    row = gated_rms_norm(y[0, 0], z[0, 0], weight)
    torch.testing.assert_close(row, whole)
    ours, theirs = (torch.autograd.grad(m.square().sum(), (y, z, weight)) for m in (row, whole))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("gate_first", [True, False])
@pytest.mark.parametrize("groups", [1, 3])
def test_gradients_are_the_derivatives_of_the_values(groups: int, gate_first: bool) -> None:
    leaves = tuple(t.requires_grad_() for t in example())
    assert torch.autograd.gradcheck(lambda *t: gated_rms_norm(*t, groups=groups, gate_first=gate_first), leaves)


def test_nothing_in_nothing_out() -> None:
    y, z, weight = (t.requires_grad_() for t in example())
    out = gated_rms_norm(y[:, :0], z[:, :0], weight)
    assert out.shape == (3, 0, 12)
    out.sum().backward()
    assert not weight.grad.any()


def test_the_operator_passes_the_checks_of_torch() -> None:
    tensors = tuple(t.requires_grad_() for t in example())
    torch.library.opcheck(torch.ops.gramian.gated_rms_norm.default, (*tensors, 3, True, 1e-5))


def test_half_precision_is_computed_in_float32() -> None:
    y, z, weight = example(torch.bfloat16)
    found = gated_rms_norm(y, z, weight.float())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, gated_rms_norm(y.float(), z.float(), weight.float()).bfloat16())


def test_what_does_not_fit_is_refused() -> None:
    y, z, weight = example()
    with pytest.raises(ShapeError, match="as many channels a group"):
        gated_rms_norm(y, z, weight, groups=5)
    with pytest.raises(ShapeError, match=r"weight \(channels,\)"):
        gated_rms_norm(y, z, weight[:3])
