"""The specification of Mamba's selective scan: one obvious loop over time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["gated", "selective_scan_by_steps", "step_sizes"]


def step_sizes(dt: Tensor, dt_bias: Tensor | None, softplus: bool) -> Tensor:
    """``softplus(dt + dt_bias)``, or without the softplus: delta of the paper."""
    dt = dt if dt_bias is None else dt + dt_bias
    return F.softplus(dt) if softplus else dt


def gated(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """``(y + D u) silu(z)``, as far as D and z are given."""
    y = y if D is None else y + D * u
    return y if z is None else y * F.silu(z)


def selective_scan_by_steps(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """Outputs and final state.

    Shapes and meaning as in `gramian.kernels.selective_scan`, B and C ``(batch, L, groups, N)``; every faster version
    must agree with this one.
    """
    delta, each = step_sizes(dt, dt_bias, softplus), u.shape[2] // B.shape[2]
    h, outputs = state, []
    for t in range(u.shape[1]):
        B_t, C_t = (m[:, t].repeat_interleave(each, 1) for m in (B, C))  # (batch, channels, N)
        h = torch.exp(delta[:, t, :, None] * A) * h + (delta[:, t] * u[:, t])[..., None] * B_t
        outputs.append((C_t * h).sum(-1))
    y = torch.stack(outputs, 1) if outputs else u * delta
    return gated(y, u, D, z), h
