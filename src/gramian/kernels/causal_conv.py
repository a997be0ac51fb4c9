"""The short causal convolution ahead of a selective scan, with its activation."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ConfigError, ShapeError, did_you_mean
from gramian.kernels.causal_conv_compiled import causal_conv1d_compiled
from gramian.kernels.causal_conv_native import TAPS
from gramian.kernels.mamba_packages import conv_by_package, why_not_conv

__all__ = ["CONV_BACKENDS", "causal_conv1d"]

CONV_BACKENDS = ("numba", "causal_conv1d", "torch", "reference")


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    state: Tensor | None = None,
    *,
    activation: str | None = "silu",
    final_state: bool = False,
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Every channel by its own filter: ``y[t, c] = act(bias[c] + sum_k weight[c, k] x[t - width + 1 + k, c])``.

    Parameters
    ----------
    x
        ``(batch, L, channels)``; ``L`` may be 0. Columns of a larger matrix are read where they lie.
    weight
        ``(channels, width)``, the last one for the newest input.
    bias
        ``(channels,)``; zero if not given.
    state
        The last ``width - 1`` inputs before x, ``(batch, width - 1, channels)``; zero if not given.
    activation
        ``"silu"`` or None.
    final_state
        Whether the last ``width - 1`` inputs are wanted.
    backend
        ``"numba"`` (one compiled pass; CPU, widths up to 4), ``"causal_conv1d"`` (that package's kernel, where it is
        installed and fits; CUDA, not measured on a GPU), ``"torch"`` (plain torch: any device, `torch.func`),
        ``"reference"`` (the loop that specifies it), or ``"auto"``.

    Returns
    -------
    y, state
        ``(batch, L, channels)`` of the dtype of x, and the last inputs, ``(batch, width - 1, channels)``, or None.
        Half precision is computed in float32.

    Raises
    ------
    ConfigError, ShapeError
        For an unknown activation or backend, or one that cannot run here, and for shapes that do not fit.
    """
    _check(x, weight, bias, state, activation)
    name, before = conv_backend(backend, x, weight.shape[1]), weight.shape[1] - 1
    given = [t for t in (x, weight, bias, state) if t is not None]
    wide = reduce(torch.promote_types, (t.dtype for t in given), torch.float32)
    x_wide, weight = x.to(wide), weight.to(wide)
    bias, state = (None if t is None else t.to(wide) for t in (bias, state))
    if name == "causal_conv1d" and x.numel() > 0:
        y = conv_by_package(x, weight, bias, state, activation == "silu")
    elif name == "numba" and x.numel() > 0:
        y = causal_conv1d_compiled(x_wide, weight, bias, state, activation == "silu")
    else:
        run = _by_steps if name == "reference" else _by_shifts
        y = run(x_wide, weight, bias, _inputs(x_wide, state, before))
        y = F.silu(y) if activation == "silu" else y
    return y.to(x.dtype), _last_inputs(x_wide, state, before) if final_state else None


def _inputs(x: Tensor, state: Tensor | None, before: int) -> Tensor:
    """x, with the inputs before it in front."""
    return F.pad(x, (0, 0, before, 0)) if state is None else torch.cat([state, x], 1)


def _last_inputs(x: Tensor, state: Tensor | None, before: int) -> Tensor:
    recent = _inputs(x[:, max(0, x.shape[1] - before) :], state, before)
    return recent[:, recent.shape[1] - before :]


def conv_backend(name: str, x: Tensor, width: int) -> str:
    """The backend that `name` means for these inputs and a filter of some width."""
    if name == "auto":
        if x.device.type == "cpu":
            return "numba" if width <= TAPS and x.shape[1] > 1 else "torch"
        return "torch" if why_not_conv(x, width) else "causal_conv1d"
    if name not in CONV_BACKENDS:
        raise ConfigError(
            f"backend '{name}' was asked for; needed: auto, {', '.join(CONV_BACKENDS)}."
            f"{did_you_mean(name, CONV_BACKENDS)}"
        )
    reason = ""
    if name == "numba" and x.device.type != "cpu":
        reason = f"it computes on the CPU; the tensors are on '{x.device}'"
    elif name == "numba" and width > TAPS:
        reason = f"it has registers for {TAPS} weights a channel, not for {width}"
    elif name == "causal_conv1d":
        reason = why_not_conv(x, width)
    if reason:
        raise ConfigError(f"backend '{name}' was asked for, and cannot run: {reason}.", cure="backend='auto'")
    return name


def _by_steps(x: Tensor, weight: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
    """The specification: one step after the other."""
    outputs, width = [], weight.shape[1]
    for t in range(x.shape[1]):
        y = (weight.mT * inputs[:, t : t + width]).sum(1)
        outputs.append(y if bias is None else y + bias)
    return torch.stack(outputs, 1) if outputs else x * weight[:, -1]


def _by_shifts(x: Tensor, weight: Tensor, bias: Tensor | None, inputs: Tensor) -> Tensor:
    """One pass over the sequence for every tap of the filter."""
    y = x * weight[:, -1]
    for k in range(weight.shape[1] - 1):
        y = torch.addcmul(y, weight[:, k], inputs[:, k : k + x.shape[1]])
    return y if bias is None else y + bias


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor | None, activation: str | None) -> None:
    if activation not in ("silu", None):
        raise ConfigError(f"activation '{activation}' was given; needed: 'silu' or None.")
    if x.ndim != 3 or weight.ndim != 2 or weight.shape[0] != x.shape[2] or weight.shape[1] == 0:
        raise ShapeError(
            f"x {tuple(x.shape)} and weight {tuple(weight.shape)} were given.",
            "Needed: x (batch, L, channels), weight (channels, width).",
        )
    wanted = {"bias": (bias, (x.shape[2],)), "state": (state, (x.shape[0], weight.shape[1] - 1, x.shape[2]))}
    for name, (tensor, shape) in wanted.items():
        if tensor is not None and tensor.shape != shape:
            raise ShapeError(
                f"{name} {tuple(tensor.shape)} was given, with x {tuple(x.shape)} and weight {tuple(weight.shape)}.",
                f"Needed: {name} {shape}.",
            )
