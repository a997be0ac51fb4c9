"""Mamba-2 as one operator: projections, convolution, recurrence and normalisation, a sequence at a time."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gramian.kernels.mamba2_mixer_backward import backward_plan, gradient_shapes
from gramian.kernels.mamba2_mixer_forward import forward_plan
from gramian.kernels.mamba2_mixer_sizes import Parameters, Saved, Sizes
from gramian.kernels.operators import operator

__all__ = ["mamba2_mixer_compiled"]

_TENSORS = 12  # that may have gradients


def mamba2_mixer_compiled(*args: Any) -> Tensor:
    """As `gramian.kernels.mamba2_mixer`, with its tensors, groups, eps and that of the norm before in that order, and T
    steps a chunk.

    For CPU tensors of one type, none of them empty. Products want `gramian.kernels.products.fits` of both weights and
    of the transpose of the second, and as many steps as `gramian.kernels.products.LEAST`; a norm before wants both
    projections, and none of the biases of the second.
    """
    out: Tensor = _mixer(*args)[0]
    return out


def _rows(m: Tensor, packed: bool) -> Tensor:
    """With columns side by side and one distance between rows, or contiguous; copied where it is not so."""
    apart = m.stride(2) == 1 and m.stride(1) >= m.shape[2] and m.stride(0) == m.shape[1] * m.stride(1)
    return m if apart and not packed else m.contiguous()


@operator("mamba2_mixer", cpu_only=True)
def _mixer(
    u: Tensor,
    prenorm: Tensor | None,
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
    prenorm_eps: float,
    T: int,
) -> tuple[Tensor, Tensor]:
    """The output, and `Saved` as one tensor."""
    inner = conv_weight, conv_bias, dt_bias, A_log, D, norm_weight
    p = Parameters(prenorm, in_weight, in_bias, *inner, out_weight, out_bias)
    u = _rows(u, prenorm is not None)
    plan, shape, saved, scratch = forward_plan(Sizes.of(u, p, groups, eps, prenorm_eps, T))
    out, kept = u.new_empty(shape), u.new_empty(saved)
    plan.launch((u, *p.given(), out, kept, u.new_empty(scratch)))
    return out, kept


@_mixer.register_fake
def _(
    u: Tensor,
    prenorm: Tensor | None,
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
    prenorm_eps: float,
    T: int,
) -> tuple[Tensor, Tensor]:
    inner = conv_weight, conv_bias, dt_bias, A_log, D, norm_weight
    p = Parameters(prenorm, in_weight, in_bias, *inner, out_weight, out_bias)
    s = Sizes.of(u, p, groups, eps, prenorm_eps, T)
    return u.new_empty(s.steps(s.d_out or s.d_inner)), u.new_empty(Saved.numbers(s))


@operator("mamba2_mixer_backward", cpu_only=True)
def _mixer_backward(
    g: Tensor,
    u: Tensor,
    prenorm: Tensor | None,
    in_weight: Tensor | None,
    conv_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    out_weight: Tensor | None,
    saved: Tensor,
    groups: int,
    T: int,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients that are `wanted` of all tensors of the operator, in their order."""
    u, g = _rows(u, prenorm is not None), g.contiguous()
    p = Parameters(prenorm, in_weight, None, conv_weight, None, dt_bias, A_log, D, norm_weight, out_weight, None)
    s = Sizes.of(u, p, groups, 0.0, 0.0, T)
    plan, shapes, scratch = backward_plan(s, tuple(wanted))
    made = [u.new_empty(shape) for shape in shapes]
    plan.launch((g, u, *p.given(), saved.contiguous(), *made, u.new_empty(scratch)))
    return _without_room(s, made, wanted[0])


def _without_room(s: Sizes, made: list[Tensor], first: bool) -> list[Tensor]:
    """Without what lies behind columns, if these are the input, and its gradient is the first."""
    return [made[0][..., : s.columns.all], *made[1:]] if first and not s.d_model else made


@_mixer_backward.register_fake
def _(
    g: Tensor,
    u: Tensor,
    prenorm: Tensor | None,
    in_weight: Tensor | None,
    conv_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    out_weight: Tensor | None,
    saved: Tensor,
    groups: int,
    T: int,
    wanted: list[bool],
) -> list[Tensor]:
    p = Parameters(prenorm, in_weight, None, conv_weight, None, dt_bias, A_log, D, norm_weight, out_weight, None)
    s = Sizes.of(u, p, groups, 0.0, 0.0, T)
    made = [u.new_empty(shape) for shape, w in zip(gradient_shapes(s), wanted, strict=True) if w]
    return _without_room(s, made, wanted[0])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    u, prenorm, in_weight, _, conv_weight, _, *inner, out_weight, _, ctx.groups, _, _, ctx.T = inputs
    ctx.save_for_backward(u, prenorm, in_weight, conv_weight, *inner, out_weight, output[1])


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    wanted = list(ctx.needs_input_grad[:_TENSORS])
    asked = [wanted[0] or wanted[1], *wanted[1:]]  # that of the norm before is made beside that of the input
    found = iter(_mixer_backward(g, *ctx.saved_tensors, ctx.groups, ctx.T, asked))
    made = [next(found) if a else None for a in asked]
    return *(t if w else None for t, w in zip(made, wanted, strict=True)), *([None] * 4)


_mixer.register_autograd(_differentiate, setup_context=_save, results=1)
