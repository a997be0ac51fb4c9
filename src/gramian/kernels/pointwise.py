"""What surrounds a recurrence in a block: dropout from counters, activation and gate, each in one pass over the data.

Once the recurrence is fast, these decide how much of a smaller state a user feels. Every function is the plain one
(exact GELU, inverted dropout) and has its plain twin here, which other devices and `torch.func` use.

Whether a number is dropped follows from a seed and its place alone, by a hash. So no mask is stored, results do not
depend on the number of threads, and ``torch.manual_seed`` repeats them: `new_seed` draws from torch's generator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ConfigError
from gramian.kernels import pointwise_native as native
from gramian.kernels.native import launch
from gramian.kernels.operators import operator

__all__ = ["dropout", "gelu_dropout", "glu_dropout_add", "kept", "new_seed"]

_UNIT = 1 << 24  # rates are multiples of its inverse


def new_seed() -> Tensor:
    """A seed from torch's default CPU generator: int64, one element."""
    return torch.randint(-(2**63), 2**63 - 1, (1,))


def kept(seed: Tensor, shape: torch.Size, rate: float) -> Tensor:
    """Which numbers dropout keeps, boolean `shape`, by two rounds of MurmurHash3's finaliser: the specification.

    A number is dropped if the upper 24 bits of its counter's hash, a whole number below ``2**24``, are below
    ``rate * 2**24``. Counters number the places in row-major order.
    """
    low = 0xFFFFFFFF
    counter = torch.arange(shape.numel(), device=seed.device)
    key = _scrambled(seed & low)
    other = _scrambled(((seed >> 32) & low) ^ key ^ 0x9E3779B9)
    h = _scrambled((counter + key) & low)
    h = _scrambled(h ^ other ^ (counter >> 32))
    return ((h >> 8) >= _threshold(rate)).view(shape)


def _scrambled(h: Tensor) -> Tensor:
    low = 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & low
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & low
    return h ^ (h >> 16)


def _threshold(rate: float) -> int:
    if not 0 <= rate < 1:
        raise ConfigError(f"a dropout rate of {rate} was given; needed: 0 <= rate < 1.")
    return round(rate * _UNIT)


def dropout_in_torch(x: Tensor, rate: float, seed: Tensor) -> Tensor:
    """The twin of `dropout`."""
    threshold = _threshold(rate)
    if threshold == 0:
        return x
    return torch.where(kept(seed.to(x.device), x.shape, rate), x * (_UNIT / (_UNIT - threshold)), 0.0)


def dropout(x: Tensor, rate: float, seed: Tensor | None = None) -> Tensor:
    """Inverted dropout: zero with probability `rate`, otherwise ``x / (1 - rate)``; `seed` is drawn if not given."""
    seed = _seed_if_needed(rate, seed)
    if x.device.type != "cpu":
        return dropout_in_torch(x, rate, seed)
    return _dropout(_wide(x), _threshold(rate), seed).to(x.dtype)


def gelu_dropout(x: Tensor, rate: float, seed: Tensor | None = None) -> Tensor:
    """``dropout(gelu(x), rate)`` with the exact GELU, ``x Phi(x)``; `seed` is drawn if not given and needed."""
    seed = _seed_if_needed(rate, seed)
    if x.device.type != "cpu":
        return dropout_in_torch(F.gelu(x), rate, seed)
    return _gelu_dropout(_wide(x), _threshold(rate), seed).to(x.dtype)


def glu_dropout_add(z: Tensor, skip: Tensor, rate: float, seed: Tensor | None = None) -> Tensor:
    """``skip + dropout(glu(z), rate)``: z ``(..., 2H)``, skip ``(..., H)``; `seed` is drawn if not given and needed."""
    seed = _seed_if_needed(rate, seed)
    if z.device.type != "cpu":
        return skip + dropout_in_torch(F.glu(z, -1), rate, seed)
    wide = torch.promote_types(_wide(z).dtype, _wide(skip).dtype)
    y: Tensor = _glu_dropout_add(z.to(wide), skip.to(wide), _threshold(rate), seed)
    return y.to(torch.promote_types(z.dtype, skip.dtype))


def _seed_if_needed(rate: float, seed: Tensor | None) -> Tensor:
    if seed is not None:
        return seed
    return new_seed() if rate > 0 else torch.zeros(1, dtype=torch.int64)


def _wide(x: Tensor) -> Tensor:
    """Half precision as float32."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _flat_tasks(x: Tensor) -> int:
    return -(-x.numel() // native.PIECE)


def _row_tasks(y: Tensor) -> int:
    H = y.shape[-1]
    return -(-(y.numel() // max(H, 1)) // max(native.PIECE // max(H, 1), 1))


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@operator("dropout", cpu_only=True)
def _dropout(x: Tensor, threshold: int, seed: Tensor) -> Tensor:
    x, y = x.contiguous(), _like(x)
    launch(native.dropout_entry, _flat_tasks(x), x.dtype, x.numel(), threshold, seed, x, y)
    return y


@_dropout.register_fake
def _(x: Tensor, threshold: int, seed: Tensor) -> Tensor:
    return _like(x)


def _save_seed(ctx: Any, inputs: tuple[Tensor, int, Tensor], output: Tensor) -> None:
    ctx.threshold = inputs[1]
    ctx.save_for_backward(inputs[2])


_dropout.register_autograd(
    lambda ctx, g: (_dropout(g, ctx.threshold, *ctx.saved_tensors), None, None), setup_context=_save_seed
)


@operator("gelu_dropout", cpu_only=True)
def _gelu_dropout(x: Tensor, threshold: int, seed: Tensor) -> Tensor:
    x, y = x.contiguous(), _like(x)
    launch(native.gelu_dropout_entry, _flat_tasks(x), x.dtype, x.numel(), threshold, seed, x, y)
    return y


@_gelu_dropout.register_fake
def _(x: Tensor, threshold: int, seed: Tensor) -> Tensor:
    return _like(x)


@operator("gelu_dropout_backward", cpu_only=True)
def _gelu_dropout_backward(g: Tensor, x: Tensor, threshold: int, seed: Tensor) -> Tensor:
    g, x, g_x = g.contiguous(), x.contiguous(), _like(x)
    launch(native.gelu_dropout_backward_entry, _flat_tasks(x), x.dtype, x.numel(), threshold, seed, x, g, g_x)
    return g_x


@_gelu_dropout_backward.register_fake
def _(g: Tensor, x: Tensor, threshold: int, seed: Tensor) -> Tensor:
    return _like(x)


def _save_first(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.threshold = inputs[-2]
    ctx.save_for_backward(inputs[0], inputs[-1])


_gelu_dropout.register_autograd(
    lambda ctx, g: (_gelu_dropout_backward(g, ctx.saved_tensors[0], ctx.threshold, ctx.saved_tensors[1]), None, None),
    setup_context=_save_first,
)


@operator("glu_dropout_add", cpu_only=True)
def _glu_dropout_add(z: Tensor, skip: Tensor, threshold: int, seed: Tensor) -> Tensor:
    z, skip, y = z.contiguous(), skip.contiguous(), _like(skip)
    rows, H = y.numel() // max(y.shape[-1], 1), y.shape[-1]
    launch(native.glu_dropout_add_entry, _row_tasks(y), z.dtype, rows, H, threshold, seed, z, skip, y)
    return y


@_glu_dropout_add.register_fake
def _(z: Tensor, skip: Tensor, threshold: int, seed: Tensor) -> Tensor:
    return _like(skip)


@operator("glu_dropout_add_backward", cpu_only=True)
def _glu_dropout_add_backward(g: Tensor, z: Tensor, threshold: int, seed: Tensor) -> Tensor:
    g, z, g_z = g.contiguous(), z.contiguous(), _like(z)
    rows, H = g.numel() // max(g.shape[-1], 1), g.shape[-1]
    launch(native.glu_dropout_add_backward_entry, _row_tasks(g), z.dtype, rows, H, threshold, seed, z, g, g_z)
    return g_z


@_glu_dropout_add_backward.register_fake
def _(g: Tensor, z: Tensor, threshold: int, seed: Tensor) -> Tensor:
    return _like(z)


_glu_dropout_add.register_autograd(
    lambda ctx, g: (
        _glu_dropout_add_backward(g, ctx.saved_tensors[0], ctx.threshold, ctx.saved_tensors[1]),
        g,
        None,
        None,
    ),
    setup_context=_save_first,
)
