"""Mamba-2 as one operator: projections, convolution, recurrence and normalisation, a sequence at a time.

The columns ``[z | x | B | C | dt]`` of the projection in are read where they lie, and their gradients are written where
they belong: nothing is cut apart or put together. What a sequence's stages leave to each other stays in the caches.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gramian.kernels import causal_conv_compiled as conv
from gramian.kernels import gated_norm, ssd_compiled, step_sizes_native
from gramian.kernels.native import Argument, At
from gramian.kernels.operators import operator
from gramian.kernels.products import by_columns, in_lines, product_stage, transposed_product
from gramian.kernels.ssd_compiled import Gradients, distance, states_between_chunks
from gramian.kernels.stages import Stage, launch_stages

__all__ = ["Columns", "mamba2_mixer_compiled"]


class Columns(NamedTuple):
    """Where things are in the rows of the projection in."""

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

    @property
    def all(self) -> int:
        """Of a row."""
        return self.d_inner + self.mixed + self.heads

    def parts(self, zxbcdt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z, xBC and dt, as views."""
        middle, end = self.d_inner + self.mixed, self.all
        return zxbcdt[..., : self.d_inner], zxbcdt[..., self.d_inner : middle], zxbcdt[..., middle:end]

    def driven(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x ``(batch, L, heads, P)``, B and C ``(batch, L, groups, N)``, as views."""
        batch, length, _ = xBC.shape
        keys, middle = (batch, length, self.groups, self.keys // self.groups), self.d_inner + self.keys
        x = xBC[..., : self.d_inner].view(batch, length, self.heads, self.d_inner // self.heads)
        return x, xBC[..., self.d_inner : middle].view(keys), xBC[..., middle:].view(keys)


def mamba2_mixer_compiled(*args: Any) -> Tensor:
    """As `gramian.kernels.mamba2_mixer`, with its tensors, groups and eps in that order, and T steps a chunk.

    For CPU tensors of one type, none of them empty; products want `gramian.kernels.products.fits` of both weights, and
    as many steps as `gramian.kernels.products.LEAST`.
    """
    out: Tensor = _mixer(*args)[0]
    return out


class _Results(NamedTuple):
    """The output, and what the backward pass needs: columns and normalised values where there are projections, step
    sizes, logs of decays, outputs of the recurrence, its states between chunks, and the factors that normalise."""

    out: Tensor
    zxbcdt: Tensor
    normed: Tensor
    delta: Tensor
    log_decay: Tensor
    y: Tensor
    between: Tensor
    scales: Tensor


def _room(u: Tensor, in_weight: Tensor | None, columns: Columns, out_weight: Tensor | None, T: int) -> _Results:
    """Empty results."""
    batch, length, _ = u.shape
    d_inner, keys, heads, groups = columns
    values = batch, length, heads, d_inner // heads
    return _Results(
        out=u.new_empty(batch, length, d_inner if out_weight is None else out_weight.shape[0]),
        zxbcdt=u.new_empty(0) if in_weight is None else in_lines(u, batch, length, columns.all),
        normed=u.new_empty(0) if out_weight is None else u.new_empty(batch, length, d_inner),
        delta=u.new_empty(batch, length, heads),
        log_decay=u.new_empty(batch, length, heads),
        y=u.new_empty(values),
        between=u.new_empty(states_between_chunks(values, keys // groups, T)),
        scales=u.new_empty(batch, length, groups),
    )


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


@operator("mamba2_mixer", cpu_only=True)
def _mixer(
    u: Tensor,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    out_weight: Tensor | None,
    out_bias: Tensor | None,
    groups: int,
    eps: float,
    T: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`_Results`."""
    columns, u = Columns.of(conv_weight, A_log, norm_weight, groups), _rows(u)
    r = _room(u, in_weight, columns, out_weight, T)
    z, xBC, dt = columns.parts(u if in_weight is None else r.zxbcdt)
    mixed, normed = xBC.new_empty(xBC.shape), r.out if out_weight is None else r.normed
    x, B, C = columns.driven(mixed)
    how = gated_norm.Normalisation(groups, True, z.shape[1])
    stages = [
        Stage(step_sizes_native.forward_entry, 1, (*_steps(dt, dt_bias, -A_log.exp()), r.delta, r.log_decay)),
        conv.forward_stage(xBC, conv_weight, conv_bias, None, True, mixed),
        *ssd_compiled.forward_stages(x, B, C, r.y, r.log_decay, r.delta, D.contiguous(), r.between, T),
        gated_norm.forward_stage(_matrix(r.y), _matrix(z), norm_weight.contiguous(), normed, r.scales, how, eps),
    ]
    if in_weight is not None:
        stages.insert(0, product_stage(u, by_columns(in_weight), r.zxbcdt, in_bias))
    if out_weight is not None:
        stages.append(product_stage(normed, by_columns(out_weight), r.out, out_bias))
    launch_stages(stages, len(z), z.dtype, scratch=[mixed])
    return r


@_mixer.register_fake
def _(
    u: Tensor,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    out_weight: Tensor | None,
    out_bias: Tensor | None,
    groups: int,
    eps: float,
    T: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return _room(u, in_weight, Columns.of(conv_weight, A_log, norm_weight, groups), out_weight, T)


@operator("mamba2_mixer_backward", cpu_only=True)
def _mixer_backward(
    g: Tensor,
    u: Tensor,
    in_weight: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    out_weight: Tensor | None,
    saved: list[Tensor],
    groups: int,
    T: int,
) -> list[Tensor]:
    """From a contiguous g, gradients for u and the inner parameters, and for columns where they are made here. The
    convolution is computed again."""
    columns, u = Columns.of(conv_weight, A_log, norm_weight, groups), _rows(u)
    r = _Results(g, *saved)
    zxbcdt = u if in_weight is None else r.zxbcdt
    g_zxbcdt = in_lines(zxbcdt, *zxbcdt.shape)
    (z, xBC, dt), (g_z, g_xBC, g_dt) = columns.parts(zxbcdt), columns.parts(g_zxbcdt)
    mixed, g_mixed, g_normed, g_y = (z.new_empty(t.shape) for t in (xBC, xBC, z, z))
    g_logs, g_delta, A = torch.empty_like(r.delta), torch.empty_like(r.delta), -A_log.exp()
    grads = Gradients(*columns.driven(g_mixed), g_logs, g_delta, D.new_empty(len(z), len(D)))
    how = gated_norm.Normalisation(groups, True, z.shape[1])
    norm_sums, step_sums = z.new_empty(len(z) * how.tasks(), columns.d_inner), z.new_empty(len(z), 2, len(D))
    normed = (_matrix(r.y), _matrix(z), norm_weight.contiguous(), r.scales)
    driven = (*columns.driven(mixed), r.log_decay, r.delta, D.contiguous(), r.between)
    steps = (*_steps(dt, dt_bias, A), r.delta, g_delta, g_logs, step_sums, distance(g_dt), At(g_dt))
    last, conv_sums = conv.backward_stage(g_mixed, xBC, conv_weight, conv_bias, None, True, g_xBC)
    stages = [
        conv.forward_stage(xBC, conv_weight, conv_bias, None, True, mixed),
        gated_norm.backward_stage(g if out_weight is None else g_normed, *normed, g_y, _matrix(g_z), norm_sums, how),
        *ssd_compiled.backward_stages(g_y, *driven, grads, T),
        Stage(step_sizes_native.backward_entry, 1, steps),
        last,
    ]
    if out_weight is not None:
        stages.insert(0, product_stage(g, out_weight.contiguous(), g_normed))
    g_u = g_zxbcdt
    if in_weight is not None:
        g_u = u.new_empty(u.shape)
        stages.append(product_stage(g_zxbcdt, in_weight.contiguous(), g_u))
    launch_stages(stages, len(z), z.dtype, scratch=[mixed, g_mixed, g_normed, g_y, g_logs, g_delta])
    g_bias, g_A = step_sums.sum(0)
    weights = [*conv_sums.totals(conv_weight), g_bias.clone(), g_A * A, grads.D.sum(0), norm_sums.sum(0)]
    return [g_u, *weights, *([] if in_weight is None else [g_zxbcdt])]


@_mixer_backward.register_fake
def _(
    g: Tensor,
    u: Tensor,
    in_weight: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    out_weight: Tensor | None,
    saved: list[Tensor],
    groups: int,
    T: int,
) -> list[Tensor]:
    bias = conv_weight.new_empty(len(conv_weight))
    weights = [t.new_empty(t.shape) for t in (conv_weight, bias, dt_bias, A_log, D, norm_weight)]
    columns = Columns.of(conv_weight, A_log, norm_weight, groups).all
    g_zxbcdt = in_lines(u, *u.shape[:2], columns)
    return [g_zxbcdt, *weights] if in_weight is None else [u.new_empty(u.shape), *weights, g_zxbcdt]


@operator("mamba2_mixer_weights", cpu_only=True)
def _weights(g: Tensor, x: Tensor) -> Tensor:
    """The gradient of a projection's weight."""
    return transposed_product(_matrix(_rows(g)), _matrix(_rows(x)))


@_weights.register_fake
def _(g: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(g.shape[2], x.shape[2])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    u, in_weight, _, *inner, out_weight, _, ctx.groups, _, ctx.T = inputs
    ctx.save_for_backward(u, in_weight, *inner, out_weight, *output[1:])


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    (u, in_weight, *inner, out_weight), saved, g = ctx.saved_tensors[:9], ctx.saved_tensors[9:], g.contiguous()
    g_u, *found = _mixer_backward(g, u, in_weight, *inner, out_weight, saved, ctx.groups, ctx.T)
    wanted, normed = ctx.needs_input_grad, saved[1]
    return (
        g_u,
        _weights(found[-1], u) if wanted[1] else None,
        found[-1].sum((0, 1)) if wanted[2] else None,
        *(w if t is not None else None for w, t in zip(found, inner, strict=False)),
        _weights(g, normed) if wanted[9] else None,
        g.sum((0, 1)) if wanted[10] else None,
        *(None, None, None),
    )


_mixer.register_autograd(_differentiate, setup_context=_save, results=1)
