"""State space duality by `gramian.kernels.ssd_native` and `ssd_backward_native`, as an operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gramian.kernels import ssd_backward_native, ssd_native
from gramian.kernels.native import Argument, At
from gramian.kernels.operators import operator
from gramian.kernels.ssd_workspace import Sizes, backward_room, forward_room
from gramian.kernels.stages import Stage, launch_stages

__all__ = [
    "Gradients",
    "Workspace",
    "backward_stages",
    "distance",
    "forward_stages",
    "ssd_compiled",
    "states_between_chunks",
    "work_sizes",
]

_WIDTH = 16  # blocks are multiples of it, which are whole vectors of float32 and of float64
_TASKS, _EACH = 8, 4  # enough to balance threads, and heads whose states fit in a cache together


def work_sizes(x: Tensor, B: Tensor, T: int) -> Sizes:
    """How the work is cut, by its shape alone: so that results do not depend on the number of threads."""
    (batch, length, heads, P), (groups, N) = x.shape, B.shape[2:]
    in_group = heads // groups
    each = max(1, min(_EACH, batch * heads // _TASKS, in_group))
    wide = (-(-size // _WIDTH) * _WIDTH for size in (P, N, T))
    return Sizes(batch, length, heads, groups, P, N, T, -(-length // T), -(-in_group // each), each, *wide)


def ssd_compiled(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None,
    dt: Tensor,
    D: Tensor,
    T: int,
    final_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Outputs and final state by chunks of T steps; shapes as in `gramian.kernels.ssd`."""
    y, final, _ = _ssd(x, log_decay, B, C, state, dt, D, T, final_state)
    return y, final if final_state else None


def distance(x: Tensor) -> int:
    """From step to step of ``(batch, L, ...)``; torch may say anything of an axis of length one."""
    return x.stride(0) if x.shape[1] == 1 else x.stride(1)


def _rows(x: Tensor) -> Tensor:
    """``(batch, L, ...)`` with one distance from step to step, and what belongs to a step side by side; copied where it
    is not so."""
    step, inner = distance(x), x[0, 0].numel()
    packed = x[0, 0].is_contiguous() and step >= inner and (len(x) == 1 or x.stride(0) == x.shape[1] * step)
    return x if packed else x.contiguous()


def _keys(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """The same for keys and queries, with the same distance for both."""
    B, C = _rows(B), _rows(C)
    return (B, C) if distance(B) == distance(C) else (B.contiguous(), C.contiguous())


class Workspace(NamedTuple):
    """Memory for every worker there can be; and gradients of keys and queries of every part, if there are some."""

    blocks: Tensor
    parts: Tensor

    @staticmethod
    def shapes(z: Sizes, *, backward: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of both, for a pass; of blocks one for each thread, since others may run more of these than there are tasks
        here. How many there are changes nothing in results."""
        size = (backward_room if backward else forward_room).py_func(z).size
        parts = (2, z.parts, z.batch, z.L, z.groups, z.N) if backward and z.parts > 1 else (0,)
        return (torch.get_num_threads(), size), parts

    @classmethod
    def empty(cls, like: Tensor, z: Sizes, *, backward: bool) -> Workspace:
        """Of the type of `like`."""
        return cls(*(like.new_empty(shape) for shape in cls.shapes(z, backward=backward)))


def forward_stages(
    x: Tensor,
    B: Tensor,
    C: Tensor,
    y: Tensor,
    log_decay: Tensor,
    dt: Tensor,
    D: Tensor,
    between: Tensor,
    work: Workspace,
    T: int,
    state: Tensor | None = None,
    final: Tensor | None = None,
) -> list[Stage]:
    """What computes y and the states `between` chunks, and the final ones where they are wanted; a piece a sequence.

    States are ``(batch, heads, N, P)``. x, and B and C, have their own distances from step to step; all other tensors
    are contiguous.
    """
    z = work_sizes(x, B, T)
    inputs = _inputs(x, B, C, log_decay, dt, D, between, state)
    return [Stage(ssd_native.forward_entry, z.groups * z.parts, (*z, *inputs, work.blocks, y, _or_none(final)))]


def _inputs(
    x: Tensor, B: Tensor, C: Tensor, log_decay: Tensor, dt: Tensor, D: Tensor, between: Tensor, state: Tensor | None
) -> tuple[Argument, ...]:
    """As `gramian.kernels.ssd_workspace.inputs_from` wants them."""
    return distance(x), distance(B), At(x), At(B), At(C), log_decay, dt, D, between, _or_none(state)


def _or_none(x: Tensor | None) -> Argument:
    return 0 if x is None else x


class Gradients(NamedTuple):
    """Those of x, and of B and C, have their own distances from step to step, the others are contiguous; that of D is
    one for each sequence."""

    x: Tensor
    B: Tensor
    C: Tensor
    log_decay: Tensor
    dt: Tensor
    D: Tensor


def backward_stages(
    g_y: Tensor,
    x: Tensor,
    B: Tensor,
    C: Tensor,
    log_decay: Tensor,
    dt: Tensor,
    D: Tensor,
    between: Tensor,
    grads: Gradients,
    work: Workspace,
    T: int,
    state: Tensor | None = None,
    g_final: Tensor | None = None,
    g_state: Tensor | None = None,
) -> list[Stage]:
    """What fills `grads`, and `g_state` if it is wanted."""
    z = work_sizes(x, B, T)
    parts = work.parts.unbind() if z.parts > 1 else ()
    g_B, g_C = parts or (grads.B, grads.C)
    inputs = _inputs(x, B, C, log_decay, dt, D, between, state)
    rows = distance(grads.x), z.groups * z.N if parts else distance(grads.B)
    made = At(grads.x), At(g_B), At(g_C), grads.log_decay, grads.dt, grads.D
    args = (*z, *inputs, work.blocks, *rows, g_y, *made, _or_none(g_final), _or_none(g_state))
    stages = [Stage(ssd_backward_native.backward_entry, z.groups * z.parts, args)]
    for part, whole in zip(parts, (grads.B, grads.C) if parts else (), strict=True):
        sizes = z.batch, z.L, z.groups * z.N, z.parts, distance(whole)
        stages.append(Stage(ssd_backward_native.fold_entry, 1, (*sizes, part, At(whole))))
    return stages


def states_between_chunks(x_shape: Sequence[int], N: int, T: int) -> tuple[int, ...]:
    """Their shape."""
    batch, length, heads, P = x_shape
    return batch, heads, -(-length // T) - 1, N, P


@operator("ssd", cpu_only=True)
def _ssd(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None,
    dt: Tensor,
    D: Tensor,
    T: int,
    final_state: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, final state (empty if not wanted), and the states between chunks for the backward pass."""
    x, (B, C) = _rows(x), _keys(B, C)
    log_decay, dt, D = (t.contiguous() for t in (log_decay, dt, D))
    y, between = x.new_empty(x.shape), x.new_empty(states_between_chunks(x.shape, B.shape[3], T))
    first = None if state is None else state.mT.contiguous()
    final = x.new_empty(*x.shape[::2], B.shape[3], x.shape[3]) if final_state else None
    work = Workspace.empty(x, work_sizes(x, B, T), backward=False)
    launch_stages(forward_stages(x, B, C, y, log_decay, dt, D, between, work, T, first, final), len(x), x.dtype)
    return y, x.new_empty(0) if final is None else _as_given(final), between


def _as_given(states: Tensor) -> Tensor:
    """``(batch, heads, N, P)`` as ``(batch, heads, P, N)``."""
    return states.mT.clone(memory_format=torch.contiguous_format)


@_ssd.register_fake
def _(
    x: Tensor,
    log_decay: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor | None,
    dt: Tensor,
    D: Tensor,
    T: int,
    final_state: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    between = x.new_empty(states_between_chunks(x.shape, B.shape[3], T))
    final = (*x.shape[::2], x.shape[3], B.shape[3]) if final_state else (0,)
    return x.new_empty(x.shape), x.new_empty(final), between


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
    between: Tensor,
    state: Tensor | None,
    T: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for x, log_decay, B, C, the state (empty if there was none), dt and D."""
    x, (B, C) = _rows(x), _keys(B, C)
    g_y, log_decay, dt, D = (t.contiguous() for t in (g_y, log_decay, dt, D))
    g_x, g_B, g_C = (x.new_empty(t.shape) for t in (x, B, C))
    grads = Gradients(g_x, g_B, g_C, torch.empty_like(log_decay), torch.empty_like(dt), x.new_empty(len(x), len(D)))
    first = None if state is None else state.mT.contiguous()
    g_first = None if first is None else torch.empty_like(first)
    ends = first, g_final.mT.contiguous() if g_final.numel() else None, g_first
    work = Workspace.empty(x, work_sizes(x, B, T), backward=True)
    launch_stages(backward_stages(g_y, x, B, C, log_decay, dt, D, between, grads, work, T, *ends), len(x), x.dtype)
    g_state = x.new_empty(0) if g_first is None else _as_given(g_first)
    return g_x, grads.log_decay, g_B, g_C, g_state, grads.dt, grads.D.sum(0)


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
    between: Tensor,
    state: Tensor | None,
    T: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    g_state = x.new_empty((0,) if state is None else state.shape)
    g_x, g_logs, g_B, g_C, g_dt, g_D = (t.new_empty(t.shape) for t in (x, log_decay, B, C, dt, D))
    return g_x, g_logs, g_B, g_C, g_state, g_dt, g_D


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, log_decay, B, C, state, dt, D, ctx.T, _ = inputs
    ctx.save_for_backward(x, log_decay, B, C, dt, D, output[2], state)


def _differentiate(ctx: Any, g_y: Tensor, g_final: Tensor) -> tuple[Tensor | None, ...]:
    found = _ssd_backward(g_y, g_final, *ctx.saved_tensors, ctx.T)
    g_state = None if ctx.saved_tensors[-1] is None else found[4]
    return *found[:4], g_state, *found[5:], None, None


_ssd.register_autograd(_differentiate, setup_context=_save, results=2)
