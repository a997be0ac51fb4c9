"""State space duality by `gramian.kernels.ssd_native`, for tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from gramian.kernels import ssd_native as native
from gramian.kernels.native import launch

__all__ = ["ssd_backward_compiled", "ssd_compiled", "work_sizes"]

_WIDTH = 16  # blocks are multiples of it, which are whole vectors of float32 and of float64
_TASKS, _EACH = 16, 4  # enough to balance threads, and heads whose states fit in a cache together


def work_sizes(x: Tensor, B: Tensor, T: int) -> native.Sizes:
    """How the work is cut, by its shape alone: so that results do not depend on the number of threads."""
    (batch, length, heads, P), (groups, N) = x.shape, B.shape[2:]
    in_group = heads // groups
    each = max(1, min(_EACH, batch * heads // _TASKS, in_group))
    wide = (-(-size // _WIDTH) * _WIDTH for size in (P, N, T))
    return native.Sizes(batch, length, heads, groups, P, N, T, -(-length // T), -(-in_group // each), each, *wide)


def ssd_compiled(
    x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor, T: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs, final state, and the states before each chunk and after all: ``(batch, heads, chunks + 1, N, P)``."""
    x, log_decay, B, C, first = (t.contiguous() for t in (x, log_decay, B, C, state.mT))
    z = work_sizes(x, B, T)
    y, before = torch.empty_like(x), x.new_empty(z.batch, z.heads, z.chunks + 1, z.N, z.P)
    tasks = z.batch * z.groups * z.parts
    room = x.new_empty(tasks, native.forward_room.py_func(z).size)
    launch(native.forward_entry, tasks, x.dtype, *z, x, y, log_decay, B, C, first, before, room)
    return y, before[:, :, -1].mT.contiguous(), before


def ssd_backward_compiled(
    g_y: Tensor, g_final: Tensor, x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, before: Tensor, T: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, log_decay, B, C and the first state, from the states that `ssd_compiled` returned."""
    g_y, x, log_decay, B, C = (t.contiguous() for t in (g_y, x, log_decay, B, C))
    z, ends = work_sizes(x, B, T), g_final.mT.clone(memory_format=torch.contiguous_format)
    g_x, g_logs = torch.empty_like(x), torch.empty_like(log_decay)
    g_B, g_C = x.new_empty(z.parts, *B.shape), x.new_empty(z.parts, *B.shape)
    tasks = z.batch * z.groups * z.parts
    room = x.new_empty(tasks, native.backward_room.py_func(z).size)
    tensors = (x, g_y, g_x, log_decay, g_logs, B, C, g_B, g_C, before, ends, room)
    launch(native.backward_entry, tasks, x.dtype, *z, *tensors)
    g_B, g_C = (m[0] if z.parts == 1 else m.sum(0) for m in (g_B, g_C))
    return g_x, g_logs, g_B, g_C, ends.mT.contiguous()
