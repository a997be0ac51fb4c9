"""Root mean square normalisation of rows, as it stands before a layer: one pass over what torch reads several times."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ShapeError
from gramian.kernels import rms_norm_native as native
from gramian.kernels.native import launch
from gramian.kernels.operators import operator

__all__ = ["rms_norm", "rms_norm_in_torch"]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean(x^2) + eps) weight``, the mean over the last axis: `torch.nn.functional.rms_norm`.

    Parameters
    ----------
    x
        ``(..., channels)``.
    weight
        ``(channels,)``.
    eps
        Added to the mean of squares.

    Returns
    -------
    Tensor
        ``(..., channels)`` of the dtype of x. Half precision is computed in float32.
    """
    if weight.shape != x.shape[-1:]:
        raise ShapeError(
            f"x {tuple(x.shape)} and weight {tuple(weight.shape)} were given.",
            "Needed: x (..., channels), weight (channels,).",
        )
    wide = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    run = _on_the_cpu if x.device.type == "cpu" else rms_norm_in_torch
    return run(x.to(wide), weight.to(wide), eps).to(x.dtype)


def rms_norm_in_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The twin of `rms_norm`: any device, `torch.func`."""
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def _on_the_cpu(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out: Tensor = _rms_norm(x, weight, eps)[0]
    return out


@operator("rms_norm", cpu_only=True)
def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The output, and the factors that normalise rows for the backward pass."""
    x, weight = x.contiguous(), weight.contiguous()
    out, scales = torch.empty_like(x), x.new_empty(x.shape[:-1])
    if x.numel():
        rows, size = scales.numel(), x.shape[-1]
        tasks, epsilon = -(-rows // native.ROWS), x.new_full((1,), eps)
        launch(native.forward_entry, tasks, x.dtype, rows, size, x, weight, epsilon, out, scales)
    return out, scales


@_rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1])


@operator("rms_norm_backward", cpu_only=True)
def _rms_norm_backward(g: Tensor, x: Tensor, weight: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    g, x, weight = g.contiguous(), x.contiguous(), weight.contiguous()
    g_x, rows, size = torch.empty_like(x), scales.numel(), x.shape[-1]
    if x.numel() == 0:
        return g_x, torch.zeros_like(weight)
    tasks = -(-rows // native.ROWS)
    sums = x.new_empty(tasks, size)
    launch(native.backward_entry, tasks, x.dtype, rows, size, x, weight, scales, g, g_x, sums, tasks)
    return g_x, sums.sum(0)


@_rms_norm_backward.register_fake
def _(g: Tensor, x: Tensor, weight: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])


_rms_norm.register_autograd(
    lambda ctx, g: (*_rms_norm_backward(g, *ctx.saved_tensors), None), setup_context=_save, results=1
)
