"""State space duality by `gramian.kernels.ssd_native`, as an operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gramian.kernels import ssd_native as native
from gramian.kernels.native import launch
from gramian.kernels.operators import operator
from gramian.kernels.ssd_workspace import Sizes, backward_room, forward_room

__all__ = ["ssd_compiled", "work_sizes"]

_WIDTH = 16  # blocks are multiples of it, which are whole vectors of float32 and of float64
_TASKS, _EACH = 16, 4  # enough to balance threads, and heads whose states fit in a cache together


def work_sizes(x: Tensor, B: Tensor, T: int) -> Sizes:
    """How the work is cut, by its shape alone: so that results do not depend on the number of threads."""
    (batch, length, heads, P), (groups, N) = x.shape, B.shape[2:]
    in_group = heads // groups
    each = max(1, min(_EACH, batch * heads // _TASKS, in_group))
    wide = (-(-size // _WIDTH) * _WIDTH for size in (P, N, T))
    return Sizes(batch, length, heads, groups, P, N, T, -(-length // T), -(-in_group // each), each, *wide)


def ssd_compiled(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor, dt: Tensor, D: Tensor, T: int
) -> tuple[Tensor, Tensor]:
    """Outputs and final state by chunks of T steps; shapes as in `gramian.kernels.ssd`."""
    y, final, _ = _ssd(x, log_decay, B, C, state, dt, D, T)
    return y, final


def _rows(x: Tensor) -> Tensor:
    """x with one distance from step to step, and what belongs to a step side by side; copied where it is not so."""
    (_, length, _, P), (batch_step, step, head, one) = x.shape, x.stride()
    apart = one == 1 and head == P and batch_step == length * step
    return x if apart else x.contiguous()


@operator("ssd", cpu_only=True)
def _ssd(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor, dt: Tensor, D: Tensor, T: int
) -> tuple[Tensor, Tensor, Tensor]:
    x, z = _rows(x), work_sizes(x, B, T)
    log_decay, B, C, first, dt, D = (t.contiguous() for t in (log_decay, B, C, state.mT, dt, D))
    y, before = x.new_empty(x.shape), x.new_empty(z.batch, z.heads, z.chunks + 1, z.N, z.P)
    tasks = z.batch * z.groups * z.parts
    room = x.new_empty(tasks, forward_room.py_func(z).size)
    tensors = (y, log_decay, dt, D, B, C, first, before, room)
    launch(native.forward_entry, tasks, x.dtype, *z, x.stride(1), x.data_ptr(), *tensors)
    return y, before[:, :, -1].mT.contiguous(), before


@_ssd.register_fake
def _(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor, dt: Tensor, D: Tensor, T: int
) -> tuple[Tensor, Tensor, Tensor]:
    (batch, length, heads, P), N = x.shape, B.shape[3]
    before = x.new_empty(batch, heads, -(-length // T) + 1, N, P)
    return x.new_empty(x.shape), x.new_empty(state.shape), before


@operator("ssd_backward", cpu_only=True)
def _ssd_backward(
    g_y: Tensor,
    g_final: Tensor,
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    D: Tensor,
    before: Tensor,
    T: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, z = _rows(x), work_sizes(x, B, T)
    g_y, log_decay, B, C, dt, D = (t.contiguous() for t in (g_y, log_decay, B, C, dt, D))
    ends = g_final.mT.clone(memory_format=torch.contiguous_format)
    g_x, g_logs, g_dt = x.new_empty(x.shape), torch.empty_like(log_decay), torch.empty_like(dt)
    g_B, g_C, g_D = x.new_empty(z.parts, *B.shape), x.new_empty(z.parts, *B.shape), x.new_empty(z.batch, z.heads)
    tasks = z.batch * z.groups * z.parts
    room = x.new_empty(tasks, backward_room.py_func(z).size)
    tensors = (g_y, g_x, log_decay, dt, D, g_logs, g_dt, g_D, B, C, g_B, g_C, before, ends, room)
    launch(native.backward_entry, tasks, x.dtype, *z, x.stride(1), x.data_ptr(), *tensors)
    g_B, g_C = (m[0] if z.parts == 1 else m.sum(0) for m in (g_B, g_C))
    return g_x, g_logs, g_B, g_C, ends.mT.contiguous(), g_dt, g_D.sum(0)


@_ssd_backward.register_fake
def _(
    g_y: Tensor,
    g_final: Tensor,
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    dt: Tensor,
    D: Tensor,
    before: Tensor,
    T: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (x, log_decay, B, C, g_final, dt, D))  # type: ignore[return-value]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, log_decay, B, C, _, dt, D, ctx.T = inputs
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(x, log_decay, B, C, dt, D, output[2])


def _differentiate(ctx: Any, g_y: Tensor, g_final: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_ssd_backward(g_y, g_final, *ctx.saved_tensors, ctx.T), None


_ssd.register_autograd(_differentiate, setup_context=_save)
