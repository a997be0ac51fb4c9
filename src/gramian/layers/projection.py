"""`torch.nn.Linear` into many columns, for what reads them where they lie."""

from __future__ import annotations

from torch import Tensor, nn

from gramian.kernels import linear_in_lines

__all__ = ["Projection"]


class Projection(nn.Linear):
    """`torch.nn.Linear` by `gramian.kernels.linear_in_lines`: the same parameters under the same names."""

    def forward(self, input: Tensor) -> Tensor:
        """``(..., in_features)`` to ``(..., out_features)``."""
        return linear_in_lines(input, self.weight, self.bias)
