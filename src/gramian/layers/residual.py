"""The block that models are stacks of."""

from __future__ import annotations

from torch import Tensor, nn

from gramian.layers.mamba2 import Mamba2
from gramian.layers.rms_norm import RMSNorm
from gramian.layers.watched import is_watched

__all__ = ["residual"]


def residual(x: Tensor, norm: nn.Module, mixer: nn.Module) -> Tensor:
    """``x + mixer(norm(x))``.

    Around a `Mamba2`, norm and sum are part of the mixer's operator: neither makes a way of its own through memory.
    Where hooks are on one of the modules, or others stand in their place, they are called as they are.

    Parameters
    ----------
    x
        ``(batch, L, d_model)``.
    norm, mixer
        From that to the same.

    Returns
    -------
    Tensor
        ``(batch, L, d_model)``.
    """
    ours = type(norm) is RMSNorm and type(mixer) is Mamba2
    if ours and not (is_watched(norm) or is_watched(mixer)):
        assert isinstance(norm, RMSNorm)
        assert isinstance(mixer, Mamba2)
        return mixer.block(x, norm)
    out: Tensor = x + mixer(norm(x))
    return out
