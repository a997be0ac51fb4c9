"""Batch normalisation over the rows of a matrix, without an affine part: one pass for the sums, one for the result."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gramian.kernels import normalization_native as native
from gramian.kernels.native import launch
from gramian.kernels.operators import operator

__all__ = ["normalize", "normalize_rows", "normalize_rows_in_torch"]

_WIDTH = 16  # narrower rows are laid side by side, so that vectors are full


def normalize_rows(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Every channel brought to mean zero and variance one over all rows.

    Parameters
    ----------
    x
        ``(rows, H)``, at least one row.
    eps
        Added to the variance.

    Returns
    -------
    y, mean, variance
        ``(rows, H)``, ``(H,)``, ``(H,)``; the variance is the biased one, which y was divided by. No gradient flows
        through mean and variance as outputs.
    """
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return normalize_rows_in_torch(x, eps)
    y, mean, variance = _normalize(x, eps)
    return y, mean, variance


def normalize_rows_in_torch(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The twin of `normalize_rows`."""
    variance, mean = torch.var_mean(x, 0, correction=0)
    return (x - mean) * torch.rsqrt(variance + eps), mean.detach(), variance.detach()


def normalize(x: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    """``(x - mean) / sqrt(variance + eps)`` for given statistics, as in evaluation; differentiable in x alone."""
    return (x - mean) * torch.rsqrt(variance + eps)


class _Rows:
    """A matrix with rows side by side where they are narrow, and its per-channel vectors alike."""

    def __init__(self, x: Tensor) -> None:
        self.rows, self.channels = x.shape
        fits = self.channels and _WIDTH % self.channels == 0 and self.rows * self.channels % _WIDTH == 0
        self.side_by_side = _WIDTH // self.channels if fits else 1
        self.shape = self.rows // self.side_by_side, self.channels * self.side_by_side
        self.tasks = -(-self.shape[0] // native.ROWS)

    def wide(self, vector: Tensor) -> Tensor:
        return vector.expand(self.side_by_side, -1).reshape(-1).contiguous()

    def total(self, sums: Tensor) -> Tensor:
        """Sums ``(pieces, 2, width)`` as ``(2, H)``, in float64."""
        return sums.to(torch.float64).sum(0).view(2, self.side_by_side, self.channels).sum(1)


@operator("normalize_rows", cpu_only=True)
def _normalize(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    x = x.contiguous()
    form, y = _Rows(x), torch.empty_like(x)
    sums, pivot = x.new_empty(form.tasks, 2, form.shape[1]), x[0].clone()
    launch(native.sums_entry, form.tasks, x.dtype, *form.shape, form.tasks, x, form.wide(pivot), sums)
    first, second = form.total(sums) / form.rows
    variance = (second - first.square()).clamp(min=0)
    mean = (first + pivot).to(x.dtype)
    scale = torch.rsqrt(variance + eps).to(x.dtype)
    launch(native.forward_entry, form.tasks, x.dtype, *form.shape, x, y, form.wide(mean), form.wide(scale))
    return y, mean, variance.to(x.dtype)


@_normalize.register_fake
def _(x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[1]), x.new_empty(x.shape[1])


@operator("normalize_rows_backward", cpu_only=True)
def _normalize_backward(g: Tensor, x: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    g, x = g.contiguous(), x.contiguous()
    form, g_x = _Rows(x), torch.empty_like(x)
    scale = form.wide(torch.rsqrt(variance + eps))
    sums, mean = x.new_empty(form.tasks, 2, form.shape[1]), form.wide(mean)
    launch(native.backward_sums_entry, form.tasks, x.dtype, *form.shape, form.tasks, x, g, mean, scale, sums)
    means = (form.total(sums) / form.rows).to(x.dtype)[:, None].expand(-1, form.side_by_side, -1).contiguous()
    launch(native.backward_entry, form.tasks, x.dtype, *form.shape, x, g, g_x, mean, scale, means)
    return g_x


@_normalize_backward.register_fake
def _(g: Tensor, x: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Tensor, float], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.eps = inputs[1]
    ctx.save_for_backward(inputs[0], *output[1:])


_normalize.register_autograd(
    lambda ctx, g: (_normalize_backward(g, *ctx.saved_tensors, ctx.eps), None), setup_context=_save, results=1
)
