"""Mamba-2: projections in and out, and between them convolution, step sizes, recurrence, gate and normalisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.kernels.causal_conv import causal_conv1d
from gramian.kernels.gated_norm import gated_rms_norm
from gramian.kernels.mamba2_mixer_compiled import mamba2_mixer_compiled
from gramian.kernels.mamba2_mixer_route import Way, route
from gramian.kernels.mamba2_mixer_sizes import Columns
from gramian.kernels.rms_norm import rms_norm
from gramian.kernels.ssd import ssd

__all__ = ["mamba2_mixer", "mamba2_mixer_by_parts"]


def mamba2_mixer(
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
    *,
    groups: int = 1,
    eps: float = 1e-5,
    chunk: int | None = None,
    prenorm: Tensor | None = None,
    prenorm_eps: float = 1e-5,
) -> Tensor:
    """All of Mamba-2, from a zero state on::

        z, xBC, dt = in_weight u + in_bias      x, B, C = silu(causal depthwise convolution of xBC)
        delta = softplus(dt + dt_bias)          a = exp(-exp(A_log) delta)
        S[t] = a[t] S[t-1] + delta[t] x[t] B[t]^T                        y[t] = S[t] C[t] + D x[t]
        out_weight (normalised y silu(z), times norm_weight) + out_bias

    With `prenorm` it is the residual block: u plus the same of normalised u, times prenorm.

    On the CPU all of it is one operator: columns are read where they lie, gradients written where they belong, and a
    sequence stays in the caches of one core on its way through. Elsewhere, without states, and for filters that the
    compiled convolution has no registers for, it is `mamba2_mixer_by_parts`; and products are torch's own under
    autocast, for mixed types or half precision, sequences of less than 8 steps, and where rows of weights or of the
    output are no whole cache lines. Then, and with a bias of the projection out, a block's norm and sum stand apart.

    Parameters
    ----------
    u
        ``(batch, L, d_model)``, or without the projection in its ``(batch, L, d_inner + d_inner + 2 groups N + heads)``
        columns: gates, values, keys, queries, step sizes.
    in_weight, in_bias
        ``(columns, d_model)`` and ``(columns,)``, each or both None.
    conv_weight, conv_bias
        ``(d_inner + 2 groups N, 1, width)``, as `torch.nn.Conv1d` has it, and ``(d_inner + 2 groups N,)`` or None.
    dt_bias, A_log, D
        ``(heads,)``.
    norm_weight
        ``(d_inner,)``.
    out_weight, out_bias
        ``(d_out, d_inner)`` and ``(d_out,)``, each or both None.
    groups
        Heads are split evenly over groups that share keys and queries, and are normalised together.
    eps
        Added to the mean of squares.
    chunk
        Steps that are computed as one matrix, as in `gramian.kernels.ssd`.
    prenorm, prenorm_eps
        ``(d_model,)``, the weight of a root mean square norm before the projection in, or None; and what is added to
        its mean of squares.

    Returns
    -------
    Tensor
        ``(batch, L, d_out)``, or ``(batch, L, d_inner)`` without the projection out. Half precision is computed in
        float32 between the projections.

    Raises
    ------
    ConfigError, ShapeError
        For a chunk of no steps, and for shapes that do not fit.

    References
    ----------
    Dao and Gu, Transformers are SSMs: generalized models and efficient algorithms through structured state space
    duality, arXiv 2405.21060, section 7.
    """
    inner = conv_weight, conv_bias, dt_bias, A_log, D, norm_weight
    tensors = u, prenorm, in_weight, in_bias, *inner, out_weight, out_bias
    shapes, dtypes = zip(*((None, None) if t is None else (t.shape, t.dtype) for t in tensors), strict=True)
    asked = shapes, dtypes, u.device.type, torch.is_autocast_enabled("cpu"), groups, chunk
    known = not torch.compiler.is_compiling() and all(type(n) is int for n in u.shape)  # symbols cannot be looked up
    way, wide, T = route(*asked) if known else route.__wrapped__(*asked)
    how: dict[str, Any] = {"groups": groups, "eps": eps, "chunk": chunk}
    if way is Way.MIXER:
        assert prenorm is not None
        return u + mamba2_mixer(rms_norm(u, prenorm, prenorm_eps), *tensors[2:], **how)
    if way is Way.INNER:
        columns = u if in_weight is None else F.linear(u, in_weight, in_bias)
        y = mamba2_mixer(columns, None, None, *inner, None, None, **how)
        return y if out_weight is None else F.linear(y, out_weight, out_bias)
    if way is Way.PARTS:
        return mamba2_mixer_by_parts(u, *tensors[2:], **how)
    if wide is None:
        return mamba2_mixer_compiled(*tensors, groups, eps, prenorm_eps, T)
    given = (None if t is None else t.to(wide) for t in tensors)
    return mamba2_mixer_compiled(*given, groups, eps, prenorm_eps, T).to(u.dtype)


def mamba2_mixer_by_parts(
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
    *,
    groups: int = 1,
    eps: float = 1e-5,
    chunk: int | None = None,
) -> Tensor:
    """The same by `torch.nn.functional.linear` and `gramian.kernels.causal_conv1d`, `ssd` and `gated_rms_norm`: the
    specification, on any device."""
    d_inner = len(norm_weight)
    columns = Columns(d_inner, (len(conv_weight) - d_inner) // 2, len(A_log), groups)
    z, xBC, dt = columns.parts(u if in_weight is None else F.linear(u, in_weight, in_bias))
    x, B, C = columns.driven(causal_conv1d(xBC, conv_weight[:, 0], conv_bias)[0])
    delta = F.softplus(torch.add(dt, dt_bias))
    y, _ = ssd(x, -A_log.exp() * delta, B, C, dt=delta, D=D, chunk=chunk)
    normed = gated_rms_norm(y.flatten(2), z, norm_weight, groups=groups, eps=eps)
    return normed if out_weight is None else F.linear(normed, out_weight, out_bias)
