"""`torch.nn.RMSNorm` by a compiled kernel."""

from __future__ import annotations

from torch import Tensor, nn

from gramian.kernels import rms_norm

__all__ = ["RMSNorm"]


class RMSNorm(nn.RMSNorm):
    """Over the last axis, with a weight: the same parameter under the same name, and the same values."""

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., channels)`` to the same."""
        assert self.eps is not None
        return rms_norm(x, self.weight, self.eps)
