"""The normalisation at the end of Mamba-2 and of linear attention, as a module with the usual ``weight``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gramian.kernels import gated_rms_norm

__all__ = ["GatedRMSNorm"]


class GatedRMSNorm(nn.Module):
    """`gramian.kernels.gated_rms_norm` with a learned weight.

    Parameters
    ----------
    channels
        Normalised in `groups` equal parts.
    gate_first
        Whether the gate comes before the normalisation.
    """

    def __init__(self, channels: int, *, groups: int = 1, gate_first: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups, self.gate_first, self.eps = groups, gate_first, eps
        self.weight = nn.Parameter(torch.ones(channels))

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, groups={self.groups}, gate_first={self.gate_first}, eps={self.eps}"

    @torch.no_grad()
    def factors(self, y: Tensor, z: Tensor) -> Tensor:
        """What each channel of y is multiplied with, ``(..., channels)``, for these y and z."""
        gate = F.silu(z)
        v = (y * gate if self.gate_first else y).unflatten(-1, (self.groups, -1))
        scale = torch.rsqrt(v.square().mean(-1, keepdim=True) + self.eps)
        return gate * self.weight * scale.expand_as(v).flatten(-2)

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """``(..., channels)`` for values and gates of that shape."""
        return gated_rms_norm(y, z, self.weight, groups=self.groups, gate_first=self.gate_first, eps=self.eps)
