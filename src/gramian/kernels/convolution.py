"""Long causal convolutions between channels, by FFT, with a hand-written gradient.

From a zero state a diagonal state space map is ``y[t] = sum_s K[t - s] u[s]`` with its impulse response ``K``;
convolving by FFT costs the same for every number of states. Autograd's own gradient of a real FFT transforms twice as
much.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gramian.kernels.convolution_native import correlate_native, from_channels, mix_native, to_channels
from gramian.kernels.operators import operator

__all__ = ["causal_convolution", "fft_length"]


def fft_length(length: int) -> int:
    """The smallest even product of 2, 3, 5 and 7 that holds a linear convolution of two sequences of `length`."""
    n = 2 * max(1, length)
    while _rest(n) > 1:
        n += 2
    return n


def _rest(n: int) -> int:
    for prime in (2, 3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n


def causal_convolution(u: Tensor, K: Tensor) -> Tensor:
    """``y[t] = sum_{s<=t} u[s] K[t - s]``: u ``(batch, L, H_in)``, K ``(H_in, H_out, L)``, y ``(batch, L, H_out)``."""
    y: Tensor = _convolve(u, K)[0]
    return y


def _spectrum(u: Tensor, n: int) -> Tensor:
    """``(batch, L, H)`` to ``(batch, H, F)``."""
    if u.device.type == "cpu":
        return torch.fft.rfft(to_channels(u, n))
    return torch.fft.rfft(u.mT, n).contiguous()


def _signal(spectrum: Tensor, n: int, length: int) -> Tensor:
    """``(batch, H, F)`` to ``(batch, length, H)``."""
    v = torch.fft.irfft(spectrum, n)
    return from_channels(v, length) if v.device.type == "cpu" else v[..., :length].mT.contiguous()


@operator("causal_convolution")
def _convolve(u: Tensor, K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and the two spectra for the backward pass: ``(batch, H_in, F)``, ``(H_in, H_out, F)``."""
    n = fft_length(u.shape[1])
    spectrum, response = _spectrum(u, n), torch.fft.rfft(K, n)
    if u.device.type == "cpu":
        mixed = mix_native(spectrum, response)
    else:
        mixed = torch.einsum("bhf,hgf->bgf", spectrum, response)
    return _signal(mixed, n, u.shape[1]), spectrum, response


@_convolve.register_fake
def _(u: Tensor, K: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    frequencies = fft_length(u.shape[1]) // 2 + 1
    narrow = torch.complex128 if u.dtype == torch.float64 else torch.complex64
    return (
        u.new_empty(u.shape[0], u.shape[1], K.shape[1]),
        u.new_empty(u.shape[0], u.shape[2], frequencies, dtype=narrow),
        K.new_empty(*K.shape[:2], frequencies, dtype=narrow),
    )


@operator("causal_convolution_backward")
def _convolve_backward(g: Tensor, spectrum: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
    length = g.shape[1]
    n = fft_length(length)
    back = _spectrum(g, n)
    if g.device.type == "cpu":
        mixed, correlated = mix_native(back, response, adjoint=True), correlate_native(spectrum, back)
    else:
        mixed = torch.einsum("bgf,hgf->bhf", back, response.conj())
        correlated = torch.einsum("bhf,bgf->hgf", spectrum.conj(), back)
    return _signal(mixed, n, length), torch.fft.irfft(correlated, n)[..., :length].contiguous()


@_convolve_backward.register_fake
def _(g: Tensor, spectrum: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
    return g.new_empty(*g.shape[:2], response.shape[0]), g.new_empty(*response.shape[:2], g.shape[1])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output[1:])


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor]:
    g_u, g_K = _convolve_backward(g, *ctx.saved_tensors)
    return g_u, g_K


_convolve.register_autograd(_differentiate, setup_context=_save, results=1)
