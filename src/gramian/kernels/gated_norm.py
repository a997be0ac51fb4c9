"""Root mean square normalisation with a SiLU gate, as it stands between a recurrence and the projection out."""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ShapeError
from gramian.kernels import gated_norm_native as native
from gramian.kernels.native import Argument, At
from gramian.kernels.operators import operator
from gramian.kernels.stages import Stage, launch_stages

__all__ = ["Normalisation", "backward_stage", "forward_stage", "gated_rms_norm", "gated_rms_norm_in_torch"]


def gated_rms_norm(
    y: Tensor, z: Tensor, weight: Tensor, *, groups: int = 1, gate_first: bool = True, eps: float = 1e-5
) -> Tensor:
    """``norm(y silu(z)) weight``, or ``norm(y) weight silu(z)``, with ``norm(v) = v / sqrt(mean(v^2) + eps)``.

    Parameters
    ----------
    y, z
        ``(..., channels)``.
    weight
        ``(channels,)``.
    groups
        Channels are normalised in as many equal parts.
    gate_first
        Whether what is normalised is gated already, as in Mamba-2, or is gated afterwards, as in RetNet and GLA.
    eps
        Added to the mean of squares.

    Returns
    -------
    Tensor
        ``(..., channels)`` of the dtype of y. Half precision is computed in float32.
    """
    if y.shape != z.shape or weight.shape != y.shape[-1:] or y.shape[-1] % groups:
        raise ShapeError(
            f"y {tuple(y.shape)}, z {tuple(z.shape)}, weight {tuple(weight.shape)} and {groups} groups were given.",
            "Needed: y and z (..., channels), weight (channels,), and as many channels a group.",
        )
    wide = reduce(torch.promote_types, (t.dtype for t in (y, z, weight)), torch.float32)
    run = _gated_rms_norm_on_the_cpu if y.device.type == "cpu" else gated_rms_norm_in_torch
    return run(y.to(wide), z.to(wide), weight.to(wide), groups, gate_first, eps).to(y.dtype)


def gated_rms_norm_in_torch(y: Tensor, z: Tensor, weight: Tensor, groups: int, gate_first: bool, eps: float) -> Tensor:
    """The specification: any device, `torch.func`."""
    gate = F.silu(z)
    v = (y * gate if gate_first else y).unflatten(-1, (groups, -1))
    normal = (v * torch.rsqrt(v.square().mean(-1, keepdim=True) + eps)).flatten(-2) * weight
    return normal if gate_first else normal * gate


def _gated_rms_norm_on_the_cpu(
    y: Tensor, z: Tensor, weight: Tensor, groups: int, gate_first: bool, eps: float
) -> Tensor:
    out: Tensor = _gated_rms_norm(y, z, weight, groups, gate_first, eps)[0]
    return out


def _rows(m: Tensor) -> Tensor:
    """As a matrix whose rows are contiguous, and may be columns of a larger one; copied where that cannot be."""
    m = m.reshape(-1, m.shape[-1])
    apart = m.stride(1) == 1 and m.stride(0) >= m.shape[1]
    return m if apart or m.is_contiguous() else m.contiguous()


class Normalisation(NamedTuple):
    """How rows are normalised, in sequences of `length` rows: no task crosses from one into the next."""

    groups: int
    gate_first: bool
    length: int

    def tasks(self) -> int:
        """Of a sequence."""
        return -(-self.length // native.ROWS)

    def sizes(self, y: Tensor, z: Tensor) -> tuple[Argument, ...]:
        """What a task wants first, for matrices y and z."""
        rows, channels = y.shape
        places = y.stride(0), z.stride(0), At(y), At(z)
        return rows, self.length, channels, self.groups, int(self.gate_first), *places


def forward_stage(
    y: Tensor, z: Tensor, weight: Tensor, out: Tensor, scales: Tensor, how: Normalisation, eps: float
) -> Stage:
    """What fills `out` and `scales`, contiguous, for matrices y and z with contiguous rows."""
    args: tuple[Argument, ...] = (*how.sizes(y, z), weight, y.new_full((1,), eps), out, scales)
    return Stage(native.forward_entry, how.tasks(), args)


def backward_stage(
    g: Tensor,
    y: Tensor,
    z: Tensor,
    weight: Tensor,
    scales: Tensor,
    g_y: Tensor,
    g_z: Tensor,
    sums: Tensor,
    how: Normalisation,
) -> Stage:
    """What fills `g_y`, contiguous, and `g_z`, a matrix with contiguous rows, and a row of `sums` for every task."""
    args: tuple[Argument, ...] = (*how.sizes(y, z), weight, scales, g, g_y, sums, g_z.stride(0), At(g_z))
    return Stage(native.backward_entry, how.tasks(), args)


@operator("gated_rms_norm", cpu_only=True)
def _gated_rms_norm(
    y: Tensor, z: Tensor, weight: Tensor, groups: int, gate_first: bool, eps: float
) -> tuple[Tensor, Tensor]:
    out, scales = torch.empty_like(y, memory_format=torch.contiguous_format), y.new_empty(*y.shape[:-1], groups)
    if y.numel():
        y, z, weight = _rows(y), _rows(z), weight.contiguous()
        how = Normalisation(groups, gate_first, len(y))
        launch_stages([forward_stage(y, z, weight, out, scales, how, eps)], 1, y.dtype)
    return out, scales


@_gated_rms_norm.register_fake
def _(y: Tensor, z: Tensor, weight: Tensor, groups: int, gate_first: bool, eps: float) -> tuple[Tensor, Tensor]:
    return y.new_empty(y.shape), y.new_empty(*y.shape[:-1], groups)


@operator("gated_rms_norm_backward", cpu_only=True)
def _gated_rms_norm_backward(
    g: Tensor, y: Tensor, z: Tensor, weight: Tensor, scales: Tensor, groups: int, gate_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    g_y, g_z = y.new_empty(y.shape), y.new_empty(y.shape)
    if y.numel() == 0:
        return g_y, g_z, torch.zeros_like(weight)
    g, y, z, weight = g.contiguous(), _rows(y), _rows(z), weight.contiguous()
    how = Normalisation(groups, gate_first, len(y))
    sums = y.new_empty(how.tasks(), len(weight))
    stage = backward_stage(g, y, z, weight, scales, g_y, g_z.view(-1, len(weight)), sums, how)
    launch_stages([stage], 1, y.dtype)
    return g_y, g_z, sums.sum(0)


@_gated_rms_norm_backward.register_fake
def _(
    g: Tensor, y: Tensor, z: Tensor, weight: Tensor, scales: Tensor, groups: int, gate_first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return y.new_empty(y.shape), y.new_empty(y.shape), torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    y, z, weight, ctx.groups, ctx.gate_first, _ = inputs
    ctx.save_for_backward(y, z, weight, output[1])


_gated_rms_norm.register_autograd(
    lambda ctx, g: (*_gated_rms_norm_backward(g, *ctx.saved_tensors, ctx.groups, ctx.gate_first), None, None, None),
    setup_context=_save,
    results=1,
)
