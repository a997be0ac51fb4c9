"""Mamba-2 between its projections as one operator: convolution, recurrence and normalisation, a sequence at a time.

The columns of the input ``[z | x | B | C | dt]`` are read where they lie, and their gradients are written where they
belong: nothing is cut apart or put together. What only one sequence's stages leave to each other stays in the caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gramian.kernels import causal_conv_compiled as conv
from gramian.kernels import gated_norm, ssd_compiled, step_sizes_native
from gramian.kernels.native import Argument, At
from gramian.kernels.operators import operator
from gramian.kernels.rows import in_lines
from gramian.kernels.ssd_compiled import Gradients, distance, states_between_chunks
from gramian.kernels.stages import Stage, launch_stages

__all__ = ["Columns", "mamba2_inner_compiled"]


class Columns(NamedTuple):
    """Where things are in the rows of the input."""

    d_inner: int
    keys: int
    heads: int
    groups: int

    @classmethod
    def of(cls, conv_weight: Tensor, A_log: Tensor, norm_weight: Tensor, groups: int) -> Columns:
        """As the sizes of parameters say."""
        d_inner = norm_weight.shape[0]
        return cls(d_inner, (conv_weight.shape[0] - d_inner) // 2, A_log.shape[0], groups)

    @property
    def mixed(self) -> int:
        """What the convolution mixes: x, B and C."""
        return self.d_inner + 2 * self.keys

    def parts(self, zxbcdt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z, xBC and dt, as views."""
        z, xBC, dt = zxbcdt.split([self.d_inner, self.mixed, self.heads], -1)
        return z, xBC, dt

    def driven(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x ``(batch, L, heads, P)``, B and C ``(batch, L, groups, N)``, as views."""
        x, B, C = xBC.split([self.d_inner, self.keys, self.keys], -1)
        shape = self.groups, self.keys // self.groups
        return x.unflatten(-1, (self.heads, -1)), B.unflatten(-1, shape), C.unflatten(-1, shape)


def mamba2_inner_compiled(
    zxbcdt: Tensor, parameters: Sequence[Tensor | None], groups: int, eps: float, T: int
) -> Tensor:
    """As `gramian.kernels.mamba2_inner`, with its parameters in that order, by chunks of T steps.

    For CPU tensors of one type, none of them empty.
    """
    out: Tensor = _inner(zxbcdt, *parameters, groups, eps, T)[0]
    return out


def _rows(m: Tensor) -> Tensor:
    """With columns side by side and one distance between rows; copied where it is not so."""
    apart = m.stride(2) == 1 and m.stride(1) >= m.shape[2] and m.stride(0) == m.shape[1] * m.stride(1)
    return m if apart else m.contiguous()


def _matrix(m: Tensor) -> Tensor:
    """``(batch, L, ...)`` as rows."""
    return m.flatten(0, 1).flatten(1)


def _steps(dt: Tensor, dt_bias: Tensor, A: Tensor) -> tuple[Argument, ...]:
    """What the kernels for step sizes want first."""
    return *dt.shape, distance(dt), At(dt), dt_bias.contiguous(), A


@operator("mamba2_inner", cpu_only=True)
def _inner(
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    groups: int,
    eps: float,
    T: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output; and for the backward pass step sizes, logs of decays, outputs of the recurrence, its states between
    chunks, and the factors that normalise."""
    columns = Columns.of(conv_weight, A_log, norm_weight, groups)
    z, xBC, dt = columns.parts(_rows(zxbcdt))
    mixed = xBC.new_empty(xBC.shape)
    x, B, C = columns.driven(mixed)
    delta, log_decay = (z.new_empty(dt.shape) for _ in range(2))
    y, out, between = x.new_empty(x.shape), z.new_empty(z.shape), states_between_chunks(x, B, T)
    scales = z.new_empty(*z.shape[:2], groups)
    how = gated_norm.Normalisation(groups, True, z.shape[1])
    stages = [
        Stage(step_sizes_native.forward_entry, 1, (*_steps(dt, dt_bias, -A_log.exp()), delta, log_decay)),
        conv.forward_stage(xBC, conv_weight, conv_bias, None, True, mixed),
        *ssd_compiled.forward_stages(x, B, C, y, log_decay, delta, D.contiguous(), between, T),
        gated_norm.forward_stage(_matrix(y), _matrix(z), norm_weight.contiguous(), out, scales, how, eps),
    ]
    launch_stages(stages, len(z), z.dtype, scratch=[mixed])
    return out, delta, log_decay, y, between, scales


@_inner.register_fake
def _(
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    groups: int,
    eps: float,
    T: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    columns = Columns.of(conv_weight, A_log, norm_weight, groups)
    z, xBC, dt = columns.parts(zxbcdt)
    x, B, _ = columns.driven(xBC.new_empty(xBC.shape))
    between, scales = states_between_chunks(x, B, T), z.new_empty(*z.shape[:2], groups)
    out, delta, log_decay, y = (t.new_empty(t.shape) for t in (z, dt, dt, x))
    return out, delta, log_decay, y, between, scales


@operator("mamba2_inner_backward", cpu_only=True)
def _inner_backward(
    g: Tensor,
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    delta: Tensor,
    log_decay: Tensor,
    y: Tensor,
    between: Tensor,
    scales: Tensor,
    groups: int,
    T: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients for all tensors but the saved ones, in their order. The convolution is computed again."""
    columns, zxbcdt = Columns.of(conv_weight, A_log, norm_weight, groups), _rows(zxbcdt)
    g_input = in_lines(zxbcdt, *zxbcdt.shape)
    (z, xBC, dt), (g_z, g_xBC, g_dt) = columns.parts(zxbcdt), columns.parts(g_input)
    A, mixed, g_mixed, g_y = -A_log.exp(), z.new_empty(xBC.shape), z.new_empty(xBC.shape), torch.empty_like(y)
    g_logs, g_delta = torch.empty_like(delta), torch.empty_like(delta)
    grads = Gradients(*columns.driven(g_mixed), g_logs, g_delta, D.new_empty(len(z), len(D)))
    how = gated_norm.Normalisation(groups, True, z.shape[1])
    norm_sums, step_sums = z.new_empty(len(z) * how.tasks(), columns.d_inner), z.new_empty(len(z), 2, len(D))
    normed = (g.contiguous(), _matrix(y), _matrix(z), norm_weight.contiguous(), scales)
    driven = (*columns.driven(mixed), log_decay, delta, D.contiguous(), between)
    steps = (*_steps(dt, dt_bias, A), delta, g_delta, g_logs, step_sums, distance(g_dt), At(g_dt))
    last, conv_sums = conv.backward_stage(g_mixed, xBC, conv_weight, conv_bias, None, True, g_xBC)
    stages = [
        conv.forward_stage(xBC, conv_weight, conv_bias, None, True, mixed),
        gated_norm.backward_stage(*normed, g_y, _matrix(g_z), norm_sums, how),
        *ssd_compiled.backward_stages(g_y, *driven, grads, T),
        Stage(step_sizes_native.backward_entry, 1, steps),
        last,
    ]
    launch_stages(stages, len(z), z.dtype, scratch=[mixed, g_mixed, g_y, g_logs, g_delta])
    g_bias, g_A = step_sums.sum(0)
    return g_input, *conv_sums.totals(conv_weight), g_bias.clone(), g_A * A, grads.D.sum(0), norm_sums.sum(0)


@_inner_backward.register_fake
def _(
    g: Tensor,
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    delta: Tensor,
    log_decay: Tensor,
    y: Tensor,
    between: Tensor,
    scales: Tensor,
    groups: int,
    T: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    bias = conv_weight.new_empty(len(conv_weight))
    rest = (t.new_empty(t.shape) for t in (conv_weight, bias, dt_bias, A_log, D, norm_weight))
    return in_lines(zxbcdt, *zxbcdt.shape), *rest  # type: ignore[return-value]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.groups, _, ctx.T = inputs
    ctx.save_for_backward(*tensors, *output[1:])


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors
    found = list(_inner_backward(g, *saved, ctx.groups, ctx.T))
    if saved[2] is None:
        found[2] = None
    return *found, None, None, None


_inner.register_autograd(_differentiate, setup_context=_save, results=1)
