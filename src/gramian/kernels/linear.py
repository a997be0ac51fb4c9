"""A dense layer whose gradient does not go through matrix products where these would be too thin to be fast.

With a few channels and tens of thousands of rows, the products of the backward pass take several times as long as
reading the data; one compiled pass over the rows makes all three gradients instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.kernels.native import array, compiled, entry, launch, run
from gramian.kernels.operators import operator
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, splat

__all__ = ["linear"]

_ROWS = 512  # of a task
_NARROW = 16  # channels in, at most, for the compiled pass; twice as many out


@compiled
def _input_gradient(g, W, g_x, first, last, H, O, real):  # type: ignore[no-untyped-def]
    for r in range(first, last):
        for h in range(0, H, lanes(real)):
            even, odd = splat(real), splat(real)
            for o in range(0, O - 1, 2):
                even = even + splat(g[r * O + o]) * load(W, o * H + h, o * H + H)
                odd = odd + splat(g[r * O + o + 1]) * load(W, (o + 1) * H + h, (o + 1) * H + H)
            if O % 2:
                even = even + splat(g[r * O + O - 1]) * load(W, (O - 1) * H + h, O * H)
            store(g_x, r * H + h, r * H + H, even + odd)


@compiled
def _weight_gradient(x, g, g_W, first, last, H, O, real):  # type: ignore[no-untyped-def]
    """Rows ``g_W[h] = sum_r x[r, h] g[r]``, and ``sum_r g[r]`` below them; four sums at a time hide the latency."""
    whole = last - (last - first) % 4
    for o in range(0, O, lanes(real)):
        for h in range(H):
            s0, s1, s2, s3 = splat(real), splat(real), splat(real), splat(real)
            for r in range(first, whole, 4):
                i, j = r * H + h, r * O
                s0, s1 = s0 + splat(x[i]) * load(g, j + o, j + O), s1 + splat(x[i + H]) * load(g, j + O + o, j + 2 * O)
                i, j = i + 2 * H, j + 2 * O
                s2, s3 = s2 + splat(x[i]) * load(g, j + o, j + O), s3 + splat(x[i + H]) * load(g, j + O + o, j + 2 * O)
            for r in range(whole, last):
                s0 = s0 + splat(x[r * H + h]) * load(g, r * O + o, r * O + O)
            store(g_W, h * O + o, h * O + O, (s0 + s1) + (s2 + s3))
        s0, s1 = splat(real), splat(real)
        for r in range(first, whole, 2):
            s0, s1 = s0 + load(g, r * O + o, r * O + O), s1 + load(g, (r + 1) * O + o, (r + 2) * O)
        for r in range(whole, last):
            s0 = s0 + load(g, r * O + o, r * O + O)
        store(g_W, H * O + o, H * O + O, s0 + s1)


@compiled
def _backward(index, args, real):  # type: ignore[no-untyped-def]
    rows, H, O, tasks = args[0], args[1], args[2], args[3]
    x, g, W = array(args[4], rows * H, real), array(args[5], rows * O, real), array(args[6], O * H, real)
    g_x, g_W = array(args[7], rows * H, real), array(args[8], (tasks, (H + 1) * O), real)[index]
    first = index * _ROWS
    last = min(first + _ROWS, rows)
    _input_gradient(g, W, g_x, first, last, H, O, real)
    _weight_gradient(x, g, g_W, first, last, H, O, real)


@entry
def _backward_entry(data):  # type: ignore[no-untyped-def]
    run(_backward, data)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x W^T + b``: x ``(..., H_in)``, weight ``(H_out, H_in)``, bias ``(H_out,)``; `torch.nn.functional.linear`."""
    narrow = weight.shape[1] <= _NARROW and weight.shape[0] <= 2 * _NARROW
    same = x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
    if not narrow or not same or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    return _linear(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])


@operator("linear", cpu_only=True)
def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, x, weight.mT)


@_linear.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@operator("linear_backward", cpu_only=True)
def _linear_backward(g: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    g, x, weight = g.contiguous(), x.contiguous(), weight.contiguous()
    (rows, H), tasks = x.shape, -(-x.shape[0] // _ROWS)
    g_x, sums = torch.empty_like(x), x.new_empty(tasks, H + 1, len(weight))
    launch(_backward_entry, tasks, x.dtype, rows, H, len(weight), tasks, x, g, weight, g_x, sums)
    total = sums.sum(0)
    return g_x, total[:H].mT.contiguous(), total[H].clone()


@_linear_backward.register_fake
def _(g: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape[0])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1])


_linear.register_autograd(lambda ctx, g: _linear_backward(g, *ctx.saved_tensors), setup_context=_save)
