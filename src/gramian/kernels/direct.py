"""The layer in compiled loops that never store a state: `gramian.kernels.direct_native` as an operator.

Fastest for few states and channels, and at its best when the batch fills the lanes of a vector (16 sequences in
float32).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from gramian.kernels.direct_native import BLOCK, backward_entry, forward_entry
from gramian.kernels.native import launch
from gramian.kernels.operators import operator

__all__ = ["diagonal_ssm_direct"]

_BYTES = 64  # of a vector


def diagonal_ssm_direct(
    u: Tensor, poles: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor | None, final_state: bool = True
) -> tuple[Tensor, Tensor]:
    """The recurrence on CPU tensors, for complex numbers as pairs.

    Parameters
    ----------
    u
        ``(batch, L, H)``, with ``L >= 1``; as many inputs as outputs.
    poles
        ``(N, 2)``.
    B, C
        ``(H, N, 2)``.
    D
        ``(H,)``.
    state
        ``(batch, N, 2)``; zero if not given.
    final_state
        Whether the final state is wanted.

    Returns
    -------
    y, state
        ``(batch, L, H)`` and ``(batch, N, 2)``, or an empty tensor if it is not wanted.
    """
    D = u.new_zeros(u.shape[2]) if D is None else D
    y, final, _ = _direct(u, poles, B, C, D, state, final_state)
    return y, final


class _Sizes:
    """Padded sizes, and how many tiles and blocks there are."""

    def __init__(self, u: Tensor, poles: Tensor) -> None:
        self.batch, self.length, self.channels = u.shape
        self.lanes = _BYTES // u.element_size()
        self.tiles = -(-self.batch // self.lanes)
        self.padded = -(-self.channels // 4) * 4
        self.rows = -(-poles.shape[0] // 2) * 4
        self.blocks = -(-self.length // BLOCK)

    @property
    def head(self) -> tuple[int, ...]:
        """The sizes that a task wants first."""
        return self.batch, self.length, self.channels, self.padded, self.rows, self.blocks

    def operands(self, poles: Tensor, B: Tensor, C: Tensor, D: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Poles ``(rows,)``, B and C ``(rows, padded channels)`` and D, filled up; C for ``C_re x_re - C_im x_im``."""
        read_out = self._coefficients(C)
        read_out[1::2].neg_()
        D = _filled_up(D, 0, self.padded - self.channels).contiguous()
        return _filled_up(poles.flatten(), 0, self.rows - poles.numel()), self._coefficients(B), read_out, D

    def _coefficients(self, m: Tensor) -> Tensor:
        flat = m.flatten(1).mT
        flat = _filled_up(flat, 0, self.padded - self.channels, 0, self.rows - flat.shape[0])
        return flat.clone(memory_format=torch.contiguous_format)

    def to_lanes(self, state: Tensor) -> Tensor:
        """``(batch, N, 2)`` as ``(tiles, rows * lanes)``."""
        flat = state.flatten(1)
        flat = pad(flat, (0, self.rows - flat.shape[1], 0, self.tiles * self.lanes - self.batch))
        return flat.reshape(self.tiles, self.lanes, self.rows).mT.reshape(self.tiles, self.rows * self.lanes)

    def from_lanes(self, values: Tensor, order: int) -> Tensor:
        """The reverse of `to_lanes`."""
        flat = values.reshape(self.tiles, self.rows, self.lanes).mT.reshape(self.tiles * self.lanes, self.rows)
        flat = flat[: self.batch, : 2 * order].reshape(self.batch, order, 2)
        return flat.clone(memory_format=torch.contiguous_format)


def _filled_up(m: Tensor, *amounts: int) -> Tensor:
    """With zeros at the end; the tensor itself where none are needed."""
    return pad(m, amounts) if any(amounts) else m


@operator("diagonal_ssm_direct", cpu_only=True)
def _direct(
    u: Tensor, poles: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor | None, final_state: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, final state (empty if not wanted), and the states at block boundaries for the backward pass."""
    sizes, u = _Sizes(u, poles), u.contiguous()
    y = torch.empty_like(u)
    boundary = u.new_empty(sizes.tiles, sizes.blocks + 1, sizes.rows * sizes.lanes)
    boundary[:, 0] = 0 if state is None else sizes.to_lanes(state)
    panels = u.new_zeros(sizes.tiles, 2, BLOCK * sizes.padded * sizes.lanes)
    rows = u.new_empty(sizes.tiles, 4 * BLOCK * sizes.lanes)
    operands = sizes.operands(poles, B, C, D)
    launch(forward_entry, sizes.tiles, u.dtype, *sizes.head, u, y, *operands, boundary, panels, rows)
    final = sizes.from_lanes(boundary[:, -1], len(poles)) if final_state else u.new_empty(0)
    return y, final, boundary


@_direct.register_fake
def _(
    u: Tensor, poles: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor | None, final_state: bool
) -> tuple[Tensor, Tensor, Tensor]:
    sizes = _Sizes(u, poles)
    boundary = u.new_empty(sizes.tiles, sizes.blocks + 1, sizes.rows * sizes.lanes)
    return u.new_empty(u.shape), u.new_empty((u.shape[0], *poles.shape) if final_state else 0), boundary


@operator("diagonal_ssm_direct_backward", cpu_only=True)
def _direct_backward(
    g: Tensor,
    g_final: Tensor,
    u: Tensor,
    poles: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    boundary: Tensor,
    stateful: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for u, poles, B, C, D and the state (empty if there was none)."""
    sizes, u, g = _Sizes(u, poles), u.contiguous(), g.contiguous()
    size, R, W = sizes.padded * sizes.lanes, sizes.rows, sizes.lanes
    g_u = torch.empty_like(u)
    adjoint = sizes.to_lanes(g_final).contiguous() if g_final.numel() else u.new_zeros(sizes.tiles, R * W)
    panels = u.new_zeros(sizes.tiles, 3, BLOCK * size)
    rows = u.new_empty(sizes.tiles, 3, 4 * BLOCK * W)
    sums = u.new_zeros(sizes.tiles, (2 * R + 1) * sizes.padded + R, W)
    tensors = (u, g, g_u, *sizes.operands(poles, B, C, D), boundary, adjoint, panels, rows, sums)
    launch(backward_entry, sizes.tiles, u.dtype, *sizes.head, *tensors)
    N, H, order = poles.shape[0], sizes.channels, sizes.padded
    g_B, g_C, g_D, g_poles = sums.sum((0, 2)).split([R * order, R * order, order, R])
    g_B, g_C = (m.reshape(R, order)[: 2 * N, :H].mT.reshape(H, N, 2).contiguous() for m in (g_B, g_C))
    g_C[..., 1].neg_()
    g_state = sizes.from_lanes(adjoint, N) if stateful else u.new_empty(0)
    return g_u, g_poles[: 2 * N].reshape(N, 2).clone(), g_B, g_C, g_D[:H].clone(), g_state


@_direct_backward.register_fake
def _(
    g: Tensor,
    g_final: Tensor,
    u: Tensor,
    poles: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    boundary: Tensor,
    stateful: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    g_state = u.new_empty((u.shape[0], *poles.shape) if stateful else 0)
    found = (torch.empty_like(m, memory_format=torch.contiguous_format) for m in (u, poles, B, C, D))
    return *found, g_state  # type: ignore[return-value]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.stateful = inputs[5] is not None
    ctx.save_for_backward(*inputs[:5], output[2])


def _differentiate(ctx: Any, g: Tensor, g_final: Tensor) -> tuple[Tensor | None, ...]:
    *found, g_state = _direct_backward(g, g_final, *ctx.saved_tensors, ctx.stateful)
    return *found, g_state if ctx.stateful else None, None


_direct.register_autograd(_differentiate, setup_context=_save, results=2)
