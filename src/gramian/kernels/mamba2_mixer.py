"""Mamba-2: projections in and out, and between them convolution, step sizes, recurrence, gate and normalisation."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ShapeError
from gramian.kernels.causal_conv import causal_conv1d
from gramian.kernels.causal_conv_native import TAPS
from gramian.kernels.gated_norm import gated_rms_norm
from gramian.kernels.mamba2_mixer_compiled import mamba2_mixer_compiled
from gramian.kernels.mamba2_mixer_sizes import Columns
from gramian.kernels.products import LEAST, fits
from gramian.kernels.rms_norm import rms_norm
from gramian.kernels.ssd import check_chunk, chunk_length, ssd

__all__ = ["mamba2_mixer", "mamba2_mixer_by_parts"]

_COMPILED = ({torch.float32}, {torch.float64})  # types of all tensors


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
    tensors = u, in_weight, in_bias, *inner, out_weight, out_bias
    how: dict[str, Any] = {"groups": groups, "eps": eps, "chunk": chunk}
    _check(*tensors, groups)
    check_chunk(chunk)
    dtypes = {t.dtype for t in (*tensors, prenorm) if t is not None}
    compiles = _compiles(u, conv_weight, norm_weight)
    fitting = compiles and _products_fit(u, in_weight, out_weight, dtypes)
    if prenorm is not None:
        _check_block(u, prenorm, out_weight)
        if not fitting or in_weight is None or out_weight is None or out_bias is not None:
            return u + mamba2_mixer(rms_norm(u, prenorm, prenorm_eps), *tensors[1:], **how)
    elif not fitting and not (in_weight is None and out_weight is None):
        columns = u if in_weight is None else F.linear(u, in_weight, in_bias)
        y = mamba2_mixer(columns, None, None, *inner, None, None, **how)
        return y if out_weight is None else F.linear(y, out_weight, out_bias)
    elif not compiles:
        return mamba2_mixer_by_parts(*tensors, **how)
    given = u, prenorm, *tensors[1:]
    wide = reduce(torch.promote_types, dtypes, torch.float32)
    if dtypes not in _COMPILED:
        given = tuple(None if t is None else t.to(wide) for t in given)
    T = max(1, min(u.shape[1], chunk or chunk_length((len(conv_weight) - len(norm_weight)) // (2 * groups))))
    return mamba2_mixer_compiled(*given, groups, eps, prenorm_eps, T).to(u.dtype)


def _compiles(u: Tensor, conv_weight: Tensor, norm_weight: Tensor) -> bool:
    """Whether the operator is for such tensors."""
    fits_registers = conv_weight.shape[2] <= TAPS and len(conv_weight) > len(norm_weight)
    return u.device.type == "cpu" and fits_registers and u.numel() > 0


def _products_fit(u: Tensor, in_weight: Tensor | None, out_weight: Tensor | None, dtypes: set[torch.dtype]) -> bool:
    """Whether the compiled products can run."""
    here = dtypes in _COMPILED and not torch.is_autocast_enabled("cpu")
    whole = (in_weight is None or fits(in_weight)) and (
        out_weight is None or (fits(out_weight) and fits(out_weight.mT))
    )
    return here and whole and u.shape[1] >= LEAST


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


def _check_inner(u: Tensor, conv_weight: Tensor, A_log: Tensor, norm_weight: Tensor, groups: int) -> None:
    """What all other sizes follow from."""
    ranks = u.ndim, conv_weight.ndim, A_log.ndim, norm_weight.ndim
    if ranks != (3, 3, 1, 1) or conv_weight.shape[1] != 1 or groups < 1:
        raise ShapeError(
            f"u {tuple(u.shape)}, conv_weight {tuple(conv_weight.shape)}, A_log {tuple(A_log.shape)}, "
            f"norm_weight {tuple(norm_weight.shape)} and {groups} groups were given.",
            "Needed: u (batch, L, columns), conv_weight (d_inner + 2 groups N, 1, width), A_log (heads,), "
            "norm_weight (d_inner,).",
        )
    d_inner, (mixed, _, width), heads = len(norm_weight), conv_weight.shape, len(A_log)
    whole = min(heads, d_inner, width) > 0 and heads % groups == 0 and d_inner % heads == 0
    if not whole or mixed < d_inner or (mixed - d_inner) % (2 * groups):
        raise ShapeError(
            f"{heads} heads, {groups} groups, norm_weight ({d_inner},) and conv_weight {tuple(conv_weight.shape)} were "
            "given.",
            "Needed: whole heads, as many a group, norm_weight (d_inner,), conv_weight (d_inner + 2 groups N, 1, width).",
        )


def _check_block(u: Tensor, prenorm: Tensor, out_weight: Tensor | None) -> None:
    d_out = None if out_weight is None else len(out_weight)
    if prenorm.shape != u.shape[2:] or d_out not in (None, u.shape[2]):
        raise ShapeError(
            f"prenorm {tuple(prenorm.shape)}, u {tuple(u.shape)} and {d_out} channels out were given.",
            "Needed: prenorm (d_model,), and as many channels out as in.",
        )


def _check(
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
) -> None:
    _check_inner(u, conv_weight, A_log, norm_weight, groups)
    d_inner, mixed, heads = len(norm_weight), len(conv_weight), len(A_log)
    columns = d_inner + mixed + heads
    d_out = 0 if out_weight is None else len(out_weight)
    wanted = {
        "u": (u.shape[2:], (columns,) if in_weight is None else in_weight.shape[1:]),
        "in_weight": (None if in_weight is None else in_weight.shape, (columns, u.shape[2])),
        "in_bias": (None if in_bias is None else in_bias.shape, () if in_weight is None else (columns,)),
        "conv_bias": (None if conv_bias is None else conv_bias.shape, (mixed,)),
        "dt_bias": (dt_bias.shape, (heads,)),
        "D": (D.shape, (heads,)),
        "out_weight": (None if out_weight is None else out_weight.shape, (d_out, d_inner)),
        "out_bias": (None if out_bias is None else out_bias.shape, () if out_weight is None else (d_out,)),
    }
    for name, (given, sizes) in wanted.items():
        if given is not None and tuple(given) != tuple(sizes):
            raise ShapeError(
                f"{name} with sizes {tuple(given)} was given; needed: {tuple(sizes)}.",
                f"There are {d_inner} inner channels, {mixed} of the convolution, and {heads} heads.",
            )
