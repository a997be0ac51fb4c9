"""Root mean square normalisation with a SiLU gate, as it stands between a recurrence and the projection out."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ShapeError

__all__ = ["gated_rms_norm"]


def gated_rms_norm(
    y: Tensor, z: Tensor, weight: Tensor, *, groups: int = 1, gate_first: bool = True, eps: float = 1e-5
) -> Tensor:
    """``norm(y silu(z)) weight``, or ``norm(y) weight silu(z)``, with ``norm(v) = v / sqrt(mean(v^2) + eps)``.

    Parameters
    ----------
    y, z
        ``(..., channels)``.
    weight
        ``(channels,)``.
    groups
        Channels are normalised in as many equal parts.
    gate_first
        Whether what is normalised is gated already, as in Mamba-2, or is gated afterwards, as in RetNet and GLA.
    eps
        Added to the mean of squares.

    Returns
    -------
    Tensor
        ``(..., channels)`` of the dtype of y. Half precision is computed in float32.
    """
    if y.shape != z.shape or weight.shape != y.shape[-1:] or y.shape[-1] % groups:
        raise ShapeError(
            f"y {tuple(y.shape)}, z {tuple(z.shape)}, weight {tuple(weight.shape)} and {groups} groups were given.",
            "Needed: y and z (..., channels), weight (channels,), and as many channels a group.",
        )
    wide = reduce(torch.promote_types, (t.dtype for t in (y, z, weight)), torch.float32)
    return gated_rms_norm_in_torch(y.to(wide), z.to(wide), weight.to(wide), groups, gate_first, eps).to(y.dtype)


def gated_rms_norm_in_torch(y: Tensor, z: Tensor, weight: Tensor, groups: int, gate_first: bool, eps: float) -> Tensor:
    """The specification."""
    gate = F.silu(z)
    v = (y * gate if gate_first else y).unflatten(-1, (groups, -1))
    normal = (v * torch.rsqrt(v.square().mean(-1, keepdim=True) + eps)).flatten(-2) * weight
    return normal if gate_first else normal * gate
