"""Root mean square normalisation of rows, as it stands before a layer: one pass over what torch reads several times."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ShapeError
from gramian.kernels import rms_norm_native as native
from gramian.kernels.column_sums import column_sums_stage
from gramian.kernels.operators import operator
from gramian.kernels.stages import Phase, Plan, Stage

__all__ = ["backward_stage", "forward_stage", "rms_norm", "rms_norm_in_torch", "tasks"]

_PLANS = 128  # kept, of as many shapes


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
    run = _on_the_cpu if x.device.type == "cpu" else rms_norm_in_torch
    if x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64):
        return run(x, weight, eps)
    wide = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), torch.float32)
    return run(x.to(wide), weight.to(wide), eps).to(x.dtype)


def rms_norm_in_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The twin of `rms_norm`: any device, `torch.func`."""
    return F.rms_norm(x, x.shape[-1:], weight, eps)


def _on_the_cpu(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out: Tensor = _rms_norm(x, weight, eps)[0]
    return out


def tasks(length: int) -> int:
    """Of a sequence of so many rows: no task crosses from one into the next."""
    return -(-length // native.ROWS)


def forward_stage(x: Tensor, weight: Tensor, out: Tensor, scales: Tensor, eps: float) -> Stage:
    """What fills `out` and `scales` for ``(batch, L, channels)``; a piece a sequence. All are contiguous."""
    batch, length, size = x.shape
    args = batch * length, size, x, weight, x.new_full((1,), eps), out, scales, length
    return Stage(native.forward_entry, tasks(length), args)


def backward_stage(
    g: Tensor, x: Tensor, weight: Tensor, scales: Tensor, g_x: Tensor, sums: Tensor, also: Tensor | None = None
) -> Stage:
    """What fills `g_x`, with `also` added where it is given, and a row of `sums` for every task."""
    batch, length, size = x.shape
    args = batch * length, size, x, weight, scales, g, g_x, sums, length, 0 if also is None else also
    return Stage(native.backward_entry, tasks(length), args)


@lru_cache(_PLANS)
def _forward_plan(rows: int, size: int, eps: float, dtype: torch.dtype, threads: int) -> Plan:
    """For x, weight, output and scales."""
    x, weight, out, scales = (torch.empty(n, dtype=dtype) for n in ((1, rows, size), size, (rows, size), rows))
    phase = Phase([forward_stage(x, weight, out, scales, eps)], 1)
    return Plan([phase], dtype, (x, weight, out, scales), threads)


@lru_cache(_PLANS)
def _backward_plan(rows: int, size: int, dtype: torch.dtype, threads: int) -> Plan:
    """For g, x, weight, scales, the gradients of x and weight, and sums of tasks."""
    x, weight, scales = (torch.empty(n, dtype=dtype) for n in ((1, rows, size), size, rows))
    g, g_x, g_weight, sums = (torch.empty_like(t) for t in (x, x, weight, x[0, : tasks(rows)]))
    phases = [
        Phase([backward_stage(g, x, weight, scales, g_x, sums)], 1),
        Phase([column_sums_stage(sums, g_weight)], 1),
    ]
    return Plan(phases, dtype, (g, x, weight, scales, g_x, g_weight, sums), threads)


@operator("rms_norm", cpu_only=True)
def _rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The output, and the factors that normalise rows for the backward pass."""
    x, weight = x.contiguous(), weight.contiguous()
    out, scales = torch.empty_like(x), x.new_empty(x.shape[:-1])
    if x.numel():
        plan = _forward_plan(scales.numel(), len(weight), eps, x.dtype, torch.get_num_threads())
        plan.launch((x, weight, out, scales))
    return out, scales


@_rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:-1])


@operator("rms_norm_backward", cpu_only=True)
def _rms_norm_backward(g: Tensor, x: Tensor, weight: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    g, x, weight = g.contiguous(), x.contiguous(), weight.contiguous()
    g_x, rows, size = torch.empty_like(x), scales.numel(), len(weight)
    if x.numel() == 0:
        return g_x, torch.zeros_like(weight)
    g_weight, sums = torch.empty_like(weight), x.new_empty(tasks(rows), size)
    plan = _backward_plan(rows, size, x.dtype, torch.get_num_threads())
    plan.launch((g, x, weight, scales, g_x, g_weight, sums))
    return g_x, g_weight


@_rms_norm_backward.register_fake
def _(g: Tensor, x: Tensor, weight: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:2], output[1])


_rms_norm.register_autograd(
    lambda ctx, g: (*_rms_norm_backward(g, *ctx.saved_tensors), None), setup_context=_save, results=1
)
