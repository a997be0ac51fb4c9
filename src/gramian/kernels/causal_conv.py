"""The short causal convolution ahead of a selective scan, with its activation."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ConfigError, ShapeError, did_you_mean

__all__ = ["CONV_BACKENDS", "causal_conv1d"]

CONV_BACKENDS = ("torch", "reference")


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
        ``"torch"`` (plain torch: any device, `torch.func`), ``"reference"`` (the loop that specifies it), or
        ``"auto"``.

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
    name = conv_backend(backend, x.device)
    given = [t for t in (x, weight, bias, state) if t is not None]
    wide = reduce(torch.promote_types, (t.dtype for t in given), torch.float32)
    state = x.new_zeros(x.shape[0], weight.shape[1] - 1, x.shape[2], dtype=wide) if state is None else state
    x_wide, weight, state = x.to(wide), weight.to(wide), state.to(wide)
    bias = None if bias is None else bias.to(wide)
    run = _by_steps if name == "reference" else _by_shifts
    y = run(x_wide, weight, bias, state)
    y = F.silu(y) if activation == "silu" else y
    return y.to(x.dtype), torch.cat([state, x_wide], 1)[:, x.shape[1] :] if final_state else None


def conv_backend(name: str, device: torch.device) -> str:
    """The backend that `name` means on `device`."""
    if name == "auto":
        return "torch"
    if name not in CONV_BACKENDS:
        raise ConfigError(
            f"backend '{name}' was asked for; needed: auto, {', '.join(CONV_BACKENDS)}."
            f"{did_you_mean(name, CONV_BACKENDS)}"
        )
    return name


def _by_steps(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor) -> Tensor:
    """The specification: one step after the other."""
    outputs, width = [], weight.shape[1]
    known = torch.cat([state, x], 1)
    for t in range(x.shape[1]):
        y = (weight.mT * known[:, t : t + width]).sum(1)
        outputs.append(y if bias is None else y + bias)
    return torch.stack(outputs, 1) if outputs else x * weight[:, -1]


def _by_shifts(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor) -> Tensor:
    """One pass over the sequence for every tap of the filter."""
    known = torch.cat([state, x], 1)
    y = x * weight[:, -1]
    for k in range(weight.shape[1] - 1):
        y = torch.addcmul(y, weight[:, k], known[:, k : k + x.shape[1]])
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
