"""Mamba-2 as one operator: projections, convolution, recurrence and normalisation, a sequence at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gramian.kernels.causal_conv_compiled import Coefficients, Sums
from gramian.kernels.mamba2_mixer_plans import Made, Parameters, Results, Sizes, backward_plan, forward_plan
from gramian.kernels.operators import operator
from gramian.kernels.products import by_columns, in_lines, transposed_product
from gramian.kernels.ssd_compiled import distance

__all__ = ["mamba2_mixer_compiled"]


def mamba2_mixer_compiled(*args: Any) -> Tensor:
    """As `gramian.kernels.mamba2_mixer`, with its tensors, groups and eps in that order, and T steps a chunk.

    For CPU tensors of one type, none of them empty; products want `gramian.kernels.products.fits` of both weights and
    of the transpose of the second, and as many steps as `gramian.kernels.products.LEAST`.
    """
    out: Tensor = _mixer(*args)[0]
    return out


def _rows(m: Tensor) -> Tensor:
    """With columns side by side and one distance between rows; copied where it is not so."""
    apart = m.stride(2) == 1 and m.stride(1) >= m.shape[2] and m.stride(0) == m.shape[1] * m.stride(1)
    return m if apart else m.contiguous()


def _sizes(
    u: Tensor,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    conv_weight: Tensor,
    A_log: Tensor,
    norm_weight: Tensor,
    out_weight: Tensor | None,
    out_bias: Tensor | None,
    groups: int,
    eps: float,
    T: int,
) -> Sizes:
    batch, length, d_model = u.shape
    d_inner = norm_weight.shape[0]
    return Sizes(
        batch=batch,
        length=length,
        row=distance(u),
        d_model=0 if in_weight is None else d_model,
        d_inner=d_inner,
        keys=(conv_weight.shape[0] - d_inner) // 2,
        heads=A_log.shape[0],
        groups=groups,
        d_out=0 if out_weight is None else out_weight.shape[0],
        in_bias=in_bias is not None,
        out_bias=out_bias is not None,
        eps=eps,
        T=T,
        dtype=u.dtype,
        threads=torch.get_num_threads(),
    )


def _in_lines_again(t: Tensor) -> Tensor:
    """Rows as `in_lines` lays them, from whoever kept a saved tensor and may have packed it."""
    lines = in_lines(t, *t.shape)
    return t if t.stride() == lines.stride() else lines.copy_(t)


def _given(u: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """Contiguous, and empty where there are none."""
    return tuple(u.new_empty(0) if t is None else t.contiguous() for t in tensors)


def _offset(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else in_lines(bias, len(bias)).copy_(bias)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`Results`."""
    u = _rows(u)
    s = _sizes(u, in_weight, in_bias, conv_weight, A_log, norm_weight, out_weight, out_bias, groups, eps, T)
    conv, A = Coefficients.of(u[:1], conv_weight, conv_bias, None).rows, -A_log.exp()
    dt_bias, D, norm = _given(u, dt_bias, D, norm_weight)
    into, out = (u.new_empty(0) if w is None else by_columns(w) for w in (in_weight, out_weight))
    offsets = _given(u, _offset(in_bias), _offset(out_bias))
    p = Parameters(conv, dt_bias, A, D, norm, into, offsets[0], out, offsets[1])
    r, (plan, shapes) = Results.empty(u, s, conv, A), forward_plan(s)
    plan.launch((u, *p, *r, *(u.new_empty(shape) for shape in shapes)))
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    projections = in_weight, in_bias, conv_weight, A_log, norm_weight, out_weight, out_bias
    conv = Coefficients.zeros(u, 1, conv_weight.shape[0]).rows
    return Results.empty(u, _sizes(u, *projections, groups, eps, T), conv, torch.empty_like(A_log))


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
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients for all tensors of the operator, in their order. Those of projections are empty if they are not
    `wanted`, the others are made at any rate."""
    u, g = _rows(u), g.contiguous()
    s = _sizes(u, in_weight, None, conv_weight, A_log, norm_weight, out_weight, None, groups, 0.0, T)
    columns, *others = saved
    r = Results(g, columns if in_weight is None else _in_lines_again(columns), *(t.contiguous() for t in others))
    dt_bias, D, norm, into, out, none = _given(u, dt_bias, D, norm_weight, in_weight, out_weight, None)
    p = Parameters(r.conv, dt_bias, r.A, D, norm, into, none, out, none)
    plan, shapes, scratch = backward_plan(s)
    g_zxbcdt, made = in_lines(u, s.batch, s.length, s.columns.all), Made(*(u.new_empty(shape) for shape in shapes))
    plan.launch((u, *p, *r, g_zxbcdt, *made, *(u.new_empty(shape) for shape in scratch)))
    g_bias, g_A = made.steps.sum(0)
    conv = Sums(made.conv_state, made.conv).totals(conv_weight)
    inner = *conv, g_bias.clone(), g_A * p.A, made.D.sum(0), made.norm.sum(0)
    return [
        g_zxbcdt if in_weight is None else made.u,
        *_projection(g_zxbcdt, u, wanted[1], wanted[2]),
        *inner,
        *_projection(g, r.normed, wanted[9], wanted[10]),
    ]


def _projection(g: Tensor, x: Tensor, weight: bool, bias: bool) -> tuple[Tensor, Tensor]:
    """Gradients for weight and bias of a projection, empty if they are not wanted."""
    rows = g.flatten(0, 1)
    none = x.new_empty(0)
    return transposed_product(rows, x.flatten(0, 1)) if weight else none, rows.sum(0) if bias else none.clone()


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
    wanted: list[bool],
) -> list[Tensor]:
    def projection(weight: Tensor | None, wanted: Sequence[bool]) -> list[Tensor]:
        shape = () if weight is None else weight.shape
        return [u.new_empty(part if w else (0,)) for part, w in zip((shape, shape[:1]), wanted, strict=True)]

    bias = conv_weight.new_empty(len(conv_weight))
    inner = [t.new_empty(t.shape) for t in (conv_weight, bias, dt_bias, A_log, D, norm_weight)]
    into, out = projection(in_weight, wanted[1:3]), projection(out_weight, wanted[9:11])
    return [in_lines(u, *u.shape) if in_weight is None else u.new_empty(u.shape), *into, *inner, *out]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    u, in_weight, _, *inner, out_weight, _, ctx.groups, _, ctx.T = inputs
    ctx.save_for_backward(u, in_weight, *inner, out_weight, *output[1:])


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    tensors, saved, wanted = ctx.saved_tensors[:9], ctx.saved_tensors[9:], list(ctx.needs_input_grad[:11])
    found = _mixer_backward(g, *tensors, saved, ctx.groups, ctx.T, wanted)
    return *(t if w else None for t, w in zip(found, wanted, strict=True)), None, None, None


_mixer.register_autograd(_differentiate, setup_context=_save, results=1)
