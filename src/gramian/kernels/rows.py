"""A dense layer whose output rows begin at whole cache lines: products of matrices write and read them faster."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ShapeError
from gramian.kernels.operators import operator

__all__ = ["in_lines", "linear_in_lines"]

_LINE = 64  # bytes


def in_lines(like: Tensor, *shape: int) -> Tensor:
    """An empty tensor of the type of `like`, with some unused numbers behind every row if that takes it to a line."""
    *outer, columns = shape
    numbers = _LINE // like.element_size()
    return like.new_empty(*outer, -(-columns // numbers) * numbers)[..., :columns]


def linear_in_lines(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`; on the CPU, the result's rows may lie some numbers apart.

    Parameters
    ----------
    x
        ``(..., columns in)``.
    weight, bias
        ``(columns out, columns in)`` and ``(columns out,)``.

    Returns
    -------
    Tensor
        ``(..., columns out)``: torch's own under autocast, for mixed types and on other devices.
    """
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:]:
        raise ShapeError(
            f"x {tuple(x.shape)} and weight {tuple(weight.shape)} were given.",
            "Needed: x (..., columns in), weight (columns out, columns in).",
        )
    alike = x.dtype == weight.dtype and (bias is None or bias.dtype == x.dtype)
    here = x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and x.numel() > 0
    if not alike or not here or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    flat: Tensor = _linear(x.reshape(-1, x.shape[-1]), weight, bias)
    return flat.view(*x.shape[:-1], len(weight))


@operator("rows_in_lines", cpu_only=True)
def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = in_lines(x, len(x), len(weight))
    if bias is None:
        return torch.mm(x, weight.t(), out=out)
    return torch.addmm(bias, x, weight.t(), out=out)


@_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return in_lines(x, x.shape[0], weight.shape[0])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    g_x = g @ weight if wanted[0] else None
    g_weight = g.t() @ x if wanted[1] else None
    return g_x, g_weight, g.sum(0) if wanted[2] else None


_linear.register_autograd(_differentiate, setup_context=_save)
