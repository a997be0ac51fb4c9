"""The gated normalisation: both orders, in groups, with their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ShapeError
from gramian.kernels import gated_rms_norm


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
def test_gradients_are_the_derivatives_of_the_values(groups: int, gate_first: bool) -> None:
    leaves = tuple(t.requires_grad_() for t in example())
    assert torch.autograd.gradcheck(lambda *t: gated_rms_norm(*t, groups=groups, gate_first=gate_first), leaves)


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
