"""State space duality by `gramian.kernels.ssd_chunked` with a gradient of its own, as an operator.

Autograd would store the triangular matrices of all chunks; this stores the states between chunks.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gramian.kernels.operators import operator
from gramian.kernels.ssd_chunked import ssd_backward_by_chunks, ssd_by_chunks

__all__ = ["ssd_recomputed"]


def ssd_recomputed(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor, T: int) -> tuple[Tensor, Tensor]:
    """Outputs and final state by chunks of T steps."""
    y, final, _ = _ssd(x, log_decay, B, C, state, T)
    return y, final


@operator("ssd_chunked")
def _ssd(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor, T: int) -> tuple[Tensor, Tensor, Tensor]:
    y, final, before = ssd_by_chunks(x, log_decay, B, C, state, T)
    return y.contiguous(), final.contiguous(), before


@_ssd.register_fake
def _(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor, T: int) -> tuple[Tensor, Tensor, Tensor]:
    (batch, length, heads, P), (groups, N) = x.shape, B.shape[2:]
    before = x.new_empty(batch, -(-length // T), groups, N, heads // groups, P)
    return x.new_empty(x.shape), x.new_empty(state.shape), before


@operator("ssd_chunked_backward")
def _ssd_backward(
    g_y: Tensor, g_final: Tensor, x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, before: Tensor, T: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return ssd_backward_by_chunks(g_y, g_final, x, log_decay, B, C, before, T)


@_ssd_backward.register_fake
def _(
    g_y: Tensor, g_final: Tensor, x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, before: Tensor, T: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return tuple(t.new_empty(t.shape) for t in (x, log_decay, B, C, g_final))  # type: ignore[return-value]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, _, ctx.T = inputs
    ctx.save_for_backward(*tensors, output[2])


def _differentiate(ctx: Any, g_y: Tensor, g_final: Tensor) -> tuple[Tensor | None, ...]:
    return *_ssd_backward(g_y, g_final, *ctx.saved_tensors, ctx.T), None


_ssd.register_autograd(_differentiate, setup_context=_save, results=2)
