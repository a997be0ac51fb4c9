"""The selective scan in compiled loops: `selective_native` and `selective_backward_native` as an operator."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from gramian.kernels.native import launch
from gramian.kernels.operators import operator
from gramian.kernels.selective_backward_native import backward_entry, backward_room
from gramian.kernels.selective_native import BLOCK, forward_entry, forward_room

__all__ = ["selective_scan_compiled"]

_LOG2_E = math.log2(math.e)  # powers of two are what the loops compute
_BYTES = 64  # of a vector
_TASKS = 16  # at least, where that leaves each of them as many tiles of channels as this:
_TILES = 4


def selective_scan_compiled(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor | None,
    softplus: bool,
    final_state: bool,
) -> tuple[Tensor, Tensor]:
    """Outputs and final state (which is empty if not wanted) of CPU tensors of one type; none of these is empty.

    Shapes as in `gramian.kernels.selective_scan`, B and C ``(batch, L, groups, N)``.
    """
    tensors = (u, dt, A, B, C, D, z, dt_bias, state)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    y, final, _, _ = _scan(*tensors, softplus, final_state, keep)
    return y, final


class _Sizes:
    """Into how many tasks, tiles and blocks a scan is cut, by its shape alone, and what is filled up to whole ones."""

    def __init__(self, u: Tensor, A: Tensor, B: Tensor) -> None:
        self.batch, self.length, self.channels = u.shape
        self.order, self.groups = A.shape[1], B.shape[2]
        self.lanes = _BYTES // u.element_size()
        self.rows = -(-self.order // 4) * 4
        self.blocks = -(-self.length // BLOCK)
        self.each = self.channels // self.groups
        self.tiles = -(-self.each // self.lanes)  # of a group
        wanted = max(1, min(-(-_TASKS // (self.batch * self.groups)), self.tiles // _TILES))
        self.share = -(-self.tiles // wanted)  # tiles of a task
        self.splits = -(-self.tiles // self.share)
        self.tasks = self.batch * self.groups * self.splits

    @property
    def head(self) -> tuple[int, ...]:
        """The sizes that a task wants first."""
        cut = (self.splits, self.tiles, self.share, self.blocks, self.rows)
        return (self.batch, self.length, self.order, self.groups, self.each, *cut)

    @property
    def boundary(self) -> tuple[int, ...]:
        """Shape of all states of one step: see `gramian.kernels.selective_native`."""
        return self.rows // 4, self.groups * self.tiles, 4, self.lanes

    def to_tiles(self, m: Tensor | None, like: Tensor) -> Tensor:
        """``(channels,)`` as ``(tiles, lanes)``; zeros for None."""
        if m is None:
            return like.new_zeros(self.groups * self.tiles * self.lanes)
        return pad(m.unflatten(0, (self.groups, self.each)), (0, self.tiles * self.lanes - self.each)).contiguous()

    def from_tiles(self, m: Tensor) -> Tensor:
        """The reverse of `to_tiles`."""
        return m.reshape(self.groups, -1)[:, : self.each].flatten()

    def to_boundary(self, m: Tensor) -> Tensor:
        """``(..., channels, N)`` as ``(..., *boundary)``."""
        m = m.unflatten(-2, (self.groups, self.each))
        m = pad(m, (0, self.rows - self.order, 0, self.tiles * self.lanes - self.each)).flatten(-3, -2)
        return m.unflatten(-1, (-1, 4)).unflatten(-3, (-1, self.lanes)).movedim(-2, -4).mT

    def from_boundary(self, m: Tensor) -> Tensor:
        """The reverse of `to_boundary`."""
        m = m.mT.movedim(-4, -2).flatten(-2).flatten(-3, -2).unflatten(-2, (self.groups, -1))
        return m[..., : self.each, : self.order].flatten(-3, -2).contiguous()

    def strip(self, t: Tensor) -> tuple[int, int, int, int]:
        """Address, and strides of sequences, groups and steps; the caller keeps the tensor alive."""
        group = t.stride(2) if t.ndim == 4 else self.each
        return t.data_ptr(), t.stride(0), group, t.stride(1)


def _rows(t: Tensor) -> Tensor:
    """With its columns side by side, and without a copy where they are."""
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


@operator("selective_scan", cpu_only=True)
def _scan(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor | None,
    softplus: bool,
    final_state: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output and final state; with `keep`, states at block boundaries and ungated outputs for the backward pass."""
    sizes = _Sizes(u, A, B)
    gated = z is not None
    u, dt, B, C, z = _rows(u), _rows(dt), _rows(B), _rows(C), _rows(u if z is None else z)
    y, plain = u.new_empty(u.shape), u.new_empty(u.shape if gated and keep else 0)
    states = u.new_empty(sizes.batch, sizes.blocks * keep + 1, *sizes.boundary)
    states[:, 0] = 0 if state is None else sizes.to_boundary(state)
    work = u.new_empty(sizes.tasks, forward_room(sizes.share, sizes.rows, sizes.lanes))
    launch(
        forward_entry,
        sizes.tasks,
        u.dtype,
        *(*sizes.head, int(softplus), int(gated), int(keep)),
        *(part for t in (u, dt, z, B, C) for part in sizes.strip(t)),
        *(y, plain, sizes.to_boundary(A * _LOG2_E).contiguous(), sizes.to_tiles(D, u), sizes.to_tiles(dt_bias, u)),
        *(states, work),
    )
    final = sizes.from_boundary(states[:, -1]) if final_state else u.new_empty(0)
    return y, final, states if keep else u.new_empty(0), plain


@_scan.register_fake
def _(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    state: Tensor | None,
    softplus: bool,
    final_state: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sizes = _Sizes(u, A, B)
    states = u.new_empty((sizes.batch, sizes.blocks + 1, *sizes.boundary) if keep else 0)
    final = u.new_empty((sizes.batch, *A.shape) if final_state else 0)
    return u.new_empty(u.shape), final, states, u.new_empty(u.shape if z is not None and keep else 0)


@operator("selective_scan_backward", cpu_only=True)
def _scan_backward(
    g: Tensor,
    g_final: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    states: Tensor,
    plain: Tensor,
    softplus: bool,
    stateful: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for u, dt, A, B, C, D, z (empty without a gate), dt_bias and state (empty if it has none)."""
    sizes = _Sizes(u, A, B)
    gated = z is not None
    u, dt, B, C, g, z = _rows(u), _rows(dt), _rows(B), _rows(C), _rows(g), _rows(u if z is None else z)
    g_u, g_dt, g_z = u.new_empty(u.shape), u.new_empty(u.shape), u.new_empty(u.shape if gated else 0)
    g_B, g_C = u.new_empty(sizes.splits, *B.shape), u.new_empty(sizes.splits, *C.shape)
    zeros = g_final.numel() == 0
    adjoint = u.new_empty(sizes.batch, *sizes.boundary) if zeros else sizes.to_boundary(g_final).contiguous()
    lanes = sizes.groups * sizes.tiles * sizes.lanes
    sums = u.new_empty(sizes.batch, (sizes.rows + 2) * lanes)  # for A, D and dt_bias
    work = u.new_empty(sizes.tasks, backward_room(sizes.share, sizes.rows, sizes.lanes))
    launch(
        backward_entry,
        sizes.tasks,
        u.dtype,
        *(*sizes.head, int(softplus), int(gated), int(zeros)),
        *(part for t in (u, dt, z, B, C, g) for part in sizes.strip(t)),
        *(plain, g_u, g_dt, g_z, g_B, g_C),
        *(sizes.to_boundary(A * _LOG2_E).contiguous(), sizes.to_tiles(D, u), sizes.to_tiles(dt_bias, u)),
        *(states.contiguous(), adjoint, sums, work),
    )
    g_A, g_D, g_bias = sums.sum(0).split([sizes.rows * lanes, lanes, lanes])
    g_A = sizes.from_boundary(g_A.view(sizes.boundary))
    g_state = sizes.from_boundary(adjoint) if stateful else u.new_empty(0)
    g_B, g_C = (m[0] if sizes.splits == 1 else m.sum(0) for m in (g_B, g_C))
    return g_u, g_dt, g_A, g_B, g_C, sizes.from_tiles(g_D), g_z, sizes.from_tiles(g_bias), g_state


@_scan_backward.register_fake
def _(
    g: Tensor,
    g_final: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    states: Tensor,
    plain: Tensor,
    softplus: bool,
    stateful: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    row, whole, state = u.shape[2:], u.shape, (u.shape[0], *A.shape) if stateful else 0
    shapes = (whole, whole, A.shape, B.shape, C.shape, row, 0 if z is None else whole, row, state)
    return tuple(u.new_empty(shape) for shape in shapes)  # type: ignore[return-value]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, state, ctx.softplus, _, _ = inputs
    ctx.stateful = state is not None
    ctx.save_for_backward(*tensors, *output[2:])


def _differentiate(ctx: Any, g: Tensor, g_final: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, states, plain = ctx.saved_tensors
    found = _scan_backward(g, g_final, *tensors, states, plain, ctx.softplus, ctx.stateful)
    wanted = (*(t is not None for t in tensors), ctx.stateful)
    return *(t if want else None for t, want in zip(found, wanted, strict=True)), None, None, None


_scan.register_autograd(_differentiate, setup_context=_save, results=2)
