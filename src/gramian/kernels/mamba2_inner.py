"""Mamba-2 between its projections in and out: convolution, step sizes, recurrence, gate and normalisation."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ShapeError
from gramian.kernels.causal_conv import causal_conv1d
from gramian.kernels.causal_conv_native import TAPS
from gramian.kernels.gated_norm import gated_rms_norm
from gramian.kernels.mamba2_inner_compiled import Columns, mamba2_inner_compiled
from gramian.kernels.ssd import check_chunk, chunk_length, ssd

__all__ = ["mamba2_inner", "mamba2_inner_by_parts"]


def mamba2_inner(
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    *,
    groups: int = 1,
    eps: float = 1e-5,
    chunk: int | None = None,
) -> Tensor:
    """What stands between the projections of Mamba-2, from a zero state on::

        z, xBC, dt = zxbcdt                     x, B, C = silu(causal depthwise convolution of xBC)
        delta = softplus(dt + dt_bias)          a = exp(-exp(A_log) delta)
        S[t] = a[t] S[t-1] + delta[t] x[t] B[t]^T                        y[t] = S[t] C[t] + D x[t]
        normalised y silu(z), times norm_weight

    On the CPU all of it is one operator: columns are read where they lie, gradients written where they belong, and a
    sequence stays in the caches of one core on its way through. Elsewhere, without states, and for filters that the
    compiled convolution has no registers for, it is `mamba2_inner_by_parts`.

    Parameters
    ----------
    zxbcdt
        ``(batch, L, d_inner + d_inner + 2 groups N + heads)``: gates, values, keys, queries, step sizes.
    conv_weight, conv_bias
        ``(d_inner + 2 groups N, width)`` and ``(d_inner + 2 groups N,)`` or None.
    dt_bias, A_log, D
        ``(heads,)``.
    norm_weight
        ``(d_inner,)``.
    groups
        Heads are split evenly over groups that share keys and queries, and are normalised together.
    eps
        Added to the mean of squares.
    chunk
        Steps that are computed as one matrix, as in `gramian.kernels.ssd`.

    Returns
    -------
    Tensor
        ``(batch, L, d_inner)`` of the dtype of `zxbcdt`. Half precision is computed in float32.

    Raises
    ------
    ConfigError, ShapeError
        For a chunk of no steps, and for shapes that do not fit.

    References
    ----------
    Dao and Gu, Transformers are SSMs: generalized models and efficient algorithms through structured state space
    duality, arXiv 2405.21060, section 7.
    """
    tensors = (zxbcdt, conv_weight, conv_bias, dt_bias, A_log, D, norm_weight)
    _check(zxbcdt, conv_weight, conv_bias, dt_bias, A_log, D, norm_weight, groups)
    check_chunk(chunk)
    fits = conv_weight.shape[1] <= TAPS and len(conv_weight) > len(norm_weight)
    if zxbcdt.device.type != "cpu" or not fits or zxbcdt.numel() == 0:
        return mamba2_inner_by_parts(*tensors, groups=groups, eps=eps, chunk=chunk)
    wide = reduce(torch.promote_types, (t.dtype for t in tensors if t is not None), torch.float32)
    length, N = zxbcdt.shape[1], (len(conv_weight) - len(norm_weight)) // (2 * groups)
    T = max(1, min(length, chunk or chunk_length(N)))
    parameters = [None if t is None else t.to(wide) for t in tensors[1:]]
    return mamba2_inner_compiled(zxbcdt.to(wide), parameters, groups, eps, T).to(zxbcdt.dtype)


def mamba2_inner_by_parts(
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    *,
    groups: int = 1,
    eps: float = 1e-5,
    chunk: int | None = None,
) -> Tensor:
    """The same by `gramian.kernels.causal_conv1d`, `ssd` and `gated_rms_norm`: the specification, on any device."""
    columns = Columns.of(conv_weight, A_log, norm_weight, groups)
    z, xBC, dt = columns.parts(zxbcdt)
    x, B, C = columns.driven(causal_conv1d(xBC, conv_weight, conv_bias)[0])
    delta = F.softplus(torch.add(dt, dt_bias))
    y, _ = ssd(x, -A_log.exp() * delta, B, C, dt=delta, D=D, chunk=chunk)
    return gated_rms_norm(y.flatten(2), z, norm_weight, groups=groups, eps=eps)


def _check(
    zxbcdt: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    norm_weight: Tensor,
    groups: int,
) -> None:
    if (zxbcdt.ndim, conv_weight.ndim, A_log.ndim, norm_weight.ndim) != (3, 2, 1, 1) or groups < 1:
        raise ShapeError(
            f"zxbcdt {tuple(zxbcdt.shape)}, conv_weight {tuple(conv_weight.shape)}, A_log {tuple(A_log.shape)}, "
            f"norm_weight {tuple(norm_weight.shape)} and {groups} groups were given.",
            "Needed: zxbcdt (batch, L, columns), conv_weight (d_inner + 2 groups N, width), A_log (heads,), "
            "norm_weight (d_inner,).",
        )
    d_inner, (mixed, width), heads = len(norm_weight), conv_weight.shape, len(A_log)
    whole = min(heads, d_inner, width) > 0 and heads % groups == 0 and d_inner % heads == 0
    if not whole or mixed < d_inner or (mixed - d_inner) % (2 * groups):
        raise ShapeError(
            f"{heads} heads, {groups} groups, norm_weight ({d_inner},) and conv_weight {tuple(conv_weight.shape)} were "
            "given.",
            "Needed: whole heads, as many a group, norm_weight (d_inner,), conv_weight (d_inner + 2 groups N, width).",
        )
    lines = {
        "zxbcdt": (zxbcdt.shape[2:], d_inner + mixed + heads),
        "conv_bias": ((mixed,) if conv_bias is None else conv_bias.shape, mixed),
        "dt_bias": (dt_bias.shape, heads),
        "D": (D.shape, heads),
    }
    for name, (given, size) in lines.items():
        if tuple(given) != (size,):
            raise ShapeError(
                f"{name} with sizes {tuple(given)} was given; needed: ({size},).",
                f"There are {d_inner} inner channels, {mixed} of the convolution, and {heads} heads.",
            )
