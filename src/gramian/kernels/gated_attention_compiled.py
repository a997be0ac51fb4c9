"""Linear attention with a gate a key channel by `gramian.kernels.gated_attention_native`, as an operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gramian.kernels import gated_attention_native as native
from gramian.kernels.native import launch
from gramian.kernels.operators import operator
from gramian.kernels.ssd_compiled import work_sizes

__all__ = ["gated_attention_compiled"]


def gated_attention_compiled(
    v: Tensor, log_gate: Tensor, k: Tensor, q: Tensor, state: Tensor, T: int
) -> tuple[Tensor, Tensor]:
    """Outputs and final state by chunks of T steps."""
    y, final, _ = _gated_attention(v, log_gate, k, q, state, T)
    return y, final


@operator("gated_attention", cpu_only=True)
def _gated_attention(
    v: Tensor, log_gate: Tensor, k: Tensor, q: Tensor, state: Tensor, T: int
) -> tuple[Tensor, Tensor, Tensor]:
    v, log_gate, k, q, first = (t.contiguous() for t in (v, log_gate, k, q, state.mT))
    z = work_sizes(v, k, T)
    y, before = torch.empty_like(v), v.new_empty(z.batch, z.heads, z.chunks + 1, z.N, z.P)
    tasks = z.batch * z.heads
    work = v.new_empty(tasks, native.room.py_func(z).S_T)
    launch(native.forward_entry, tasks, v.dtype, *z, v, y, log_gate, k, q, first, before, work)
    return y, before[:, :, -1].mT.clone(memory_format=torch.contiguous_format), before


@_gated_attention.register_fake
def _(v: Tensor, log_gate: Tensor, k: Tensor, q: Tensor, state: Tensor, T: int) -> tuple[Tensor, Tensor, Tensor]:
    (batch, length, heads, P), N = v.shape, k.shape[3]
    before = v.new_empty(batch, heads, -(-length // T) + 1, N, P)
    return v.new_empty(v.shape), v.new_empty(state.shape), before


@operator("gated_attention_backward", cpu_only=True)
def _gated_attention_backward(
    g: Tensor, g_final: Tensor, v: Tensor, log_gate: Tensor, k: Tensor, q: Tensor, before: Tensor, T: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g, v, log_gate, k, q = (t.contiguous() for t in (g, v, log_gate, k, q))
    z, ends = work_sizes(v, k, T), g_final.mT.clone(memory_format=torch.contiguous_format)
    g_v, g_gate, g_k, g_q = (torch.empty_like(t) for t in (v, log_gate, k, q))
    tasks = z.batch * z.heads
    work = v.new_empty(tasks, native.room.py_func(z).size)
    tensors = (v, g, g_v, log_gate, k, q, g_gate, g_k, g_q, before, ends, work)
    launch(native.backward_entry, tasks, v.dtype, *z, *tensors)
    return g_v, g_gate, g_k, g_q, ends.mT.clone(memory_format=torch.contiguous_format)


@_gated_attention_backward.register_fake
def _(
    g: Tensor, g_final: Tensor, v: Tensor, log_gate: Tensor, k: Tensor, q: Tensor, before: Tensor, T: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (v, log_gate, k, q, g_final))  # type: ignore[return-value]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    v, log_gate, k, q, _, ctx.T = inputs
    ctx.save_for_backward(v, log_gate, k, q, output[2])


def _differentiate(ctx: Any, g: Tensor, g_final: Tensor) -> tuple[Tensor | None, ...]:
    return *_gated_attention_backward(g, g_final, *ctx.saved_tensors, ctx.T), None


_gated_attention.register_autograd(_differentiate, setup_context=_save, results=2)
