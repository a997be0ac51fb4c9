"""The scan in Triton: one program for each sequence, tile of states and chunk of time.

Checked in Triton's interpreter (``TRITON_INTERPRET=1``, set before Triton is imported) and accepted by its compiler;
**not measured on a GPU**. The sizes below are reckoned, not tuned.

A program is one warp. It keeps its states in registers and takes one step after the other; a step reads neighbouring
pairs of reals, one a thread. Where sequences and tiles alone are too few programs to fill a GPU, time is cut too:

1. every chunk but the last runs from zero, and only its end is kept;
2. the state after each chunk, ``after[c] = pole**chunk * after[c-1] + end[c]``, is a shorter scan of the same kind;
3. every chunk runs again from the state it really starts in, and all its states are kept.

That reads the input twice. How time is cut depends on the shapes alone and no sum is made by atomics, so results are
the same bits on every run.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from gramian.errors import ConfigError

__all__ = ["scan_backward_triton", "scan_triton", "why_not"]

_INSTALLED = find_spec("triton") is not None
if _INSTALLED:
    import triton
    import triton.language as tl

_TILE = 32  # states a program: one for each thread of a warp
_STEPS = 32  # steps a program, at least: shorter chunks would cost more in launches than they gain
_PROGRAMS = 4096  # wanted: about what the 100 to 150 multiprocessors of a large GPU hold at once, at 32 each


def _kernel(function: Any) -> Any:
    return triton.jit(function) if _INSTALLED else function


@_kernel
def _place(N, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Which chunk of which sequence (as one number), where its pairs lie in a row of N, and which of them exist."""
    index = tl.program_id(0).to(tl.int64)
    tiles = tl.cdiv(N, TILE)
    n = index % tiles * TILE + tl.arange(0, TILE)
    return index // tiles, 2 * n[:, None] + tl.arange(0, 2)[None, :], n[:, None] < N


@_kernel
def _next(re, im, pole_re, pole_im, x):  # type: ignore[no-untyped-def]
    x_re, x_im = tl.split(x)
    return pole_re * re - pole_im * im + x_re, pole_re * im + pole_im * re + x_im


@_kernel
def _ends(x, poles, ends, L, N, chunks, steps, BACK: tl.constexpr, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The last state of each chunk run from zero; with BACK, chunks and steps count from the end of time."""
    block, pairs, real = _place(N, TILE)
    pole_re, pole_im = tl.split(tl.load(poles + pairs, real, other=0.0))
    re, im = tl.zeros_like(pole_re), tl.zeros_like(pole_im)
    first = block % chunks * steps
    rows = x + block // chunks * L * 2 * N + pairs
    for k in range(steps):
        t = L - 1 - first - k if BACK else first + k
        re, im = _next(re, im, pole_re, pole_im, tl.load(rows + t * 2 * N, real, other=0.0))
    tl.store(ends + block * 2 * N + pairs, tl.join(re, im), real)


@_kernel
def _states(x, poles, starts, out, L, N, chunks, steps, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """All states of each chunk, from the state before it."""
    block, pairs, real = _place(N, TILE)
    pole_re, pole_im = tl.split(tl.load(poles + pairs, real, other=0.0))
    re, im = tl.split(tl.load(starts + block * 2 * N + pairs, real, other=0.0))
    first = block % chunks * steps
    rows = block // chunks * L * 2 * N + pairs
    for t in range(first, tl.minimum(first + steps, L)):
        re, im = _next(re, im, pole_re, pole_im, tl.load(x + rows + t * 2 * N, real, other=0.0))
        tl.store(out + rows + t * 2 * N, tl.join(re, im), real)


@_kernel
def _adjoint(g, conj, starts, states, w, g_poles, L, N, chunks, steps, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """``w[t] = conj w[t+1] + g[t]`` back through each chunk, and its share of ``sum_t conj(states[t]) w[t+1]``."""
    block, pairs, real = _place(N, TILE)
    pole_re, pole_im = tl.split(tl.load(conj + pairs, real, other=0.0))
    re, im = tl.split(tl.load(starts + block * 2 * N + pairs, real, other=0.0))
    sum_re, sum_im = tl.zeros_like(re), tl.zeros_like(im)
    first = block % chunks * steps
    rows = block // chunks * L * 2 * N + pairs
    for k in range(first, tl.minimum(first + steps, L)):
        t = L - 1 - k
        h_re, h_im = tl.split(tl.load(states + rows + t * 2 * N, real, other=0.0))
        sum_re += h_re * re + h_im * im
        sum_im += h_re * im - h_im * re
        re, im = _next(re, im, pole_re, pole_im, tl.load(g + rows + t * 2 * N, real, other=0.0))
        tl.store(w + rows + t * 2 * N, tl.join(re, im), real)
    tl.store(g_poles + block * 2 * N + pairs, tl.join(sum_re, sum_im), real)


_INTERPRETED = _INSTALLED and not isinstance(_states, triton.JITFunction)


def why_not() -> str:
    """Why Triton's kernels cannot run here, in one sentence; empty if they can."""
    if not _INSTALLED:
        return "Triton is not installed: pip install 'gramian[triton]', on Linux."
    if not _INTERPRETED and not torch.cuda.is_available():
        return "Triton is installed but has no CUDA device here, and its interpreter (TRITON_INTERPRET=1) is off."
    return ""


def _require(x: Tensor) -> None:
    reason = why_not()
    if not reason and not _INTERPRETED and x.device.type != "cuda":
        reason = f"The tensors are on '{x.device}'."
    if reason:
        raise ConfigError(
            "backend 'triton' was asked for; needed: Triton, and tensors on a CUDA device.", reason, "backend='auto'"
        )


def _chunk(B: int, L: int, N: int) -> int:
    """Steps a program, a power of two: no fewer than L where sequences and tiles alone are programs enough."""
    wanted = max(1, _PROGRAMS // (B * triton.cdiv(N, _TILE)))
    return max(_STEPS, triton.next_power_of_2(triton.cdiv(L, wanted)))


def _launch(kernel: Any, x: Tensor, *args: Any, chunks: int, **constants: bool) -> None:
    """Run `kernel` for each sequence, chunk and tile of `x`."""
    B, L, N, _ = x.shape
    with torch.cuda.device_of(x):
        grid = (B * chunks * triton.cdiv(N, _TILE),)
        kernel[grid](x, *args, L, N, chunks, _chunk(B, L, N), **constants, TILE=_TILE, num_warps=1)


def _starts(x: Tensor, poles: Tensor, state: Tensor, back: bool) -> Tensor:
    """The state before each chunk, ``(B, chunks, N, 2)``; with `back`, chunks count from the end of time."""
    B, L, N, _ = x.shape
    steps = _chunk(B, L, N)
    full = triton.cdiv(L, steps) - 1
    if full == 0:
        return state[:, None]
    ends = x.new_empty(B, full, N, 2)
    _launch(_ends, x, poles, ends, chunks=full, BACK=back)
    power = torch.view_as_complex(poles)
    for _ in range(steps.bit_length() - 1):
        power = power * power
    return torch.cat([state[:, None], scan_triton(ends, torch.view_as_real(power), state)], 1)


def scan_triton(x: Tensor, poles: Tensor, state: Tensor) -> Tensor:
    """All states, ``(B, L, N, 2)``, of contiguous tensors: see `gramian.kernels.scan.scan`; ``L >= 1``.

    Raises
    ------
    ConfigError
        If Triton's kernels cannot run here, see `why_not`, or not on the device of `x`.
    """
    _require(x)
    starts, out = _starts(x, poles, state, back=False), torch.empty_like(x)
    _launch(_states, x, poles, starts, out, chunks=starts.shape[1])
    return out


def scan_backward_triton(g: Tensor, states: Tensor, state: Tensor, poles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for inputs, poles and first state, from that of the states.

    Raises
    ------
    ConfigError
        If Triton's kernels cannot run here, see `why_not`, or not on the device of `g`.
    """
    _require(g)
    conj = torch.view_as_complex(poles).conj()
    pairs = torch.view_as_real(conj.resolve_conj())
    starts, w = _starts(g, pairs, torch.zeros_like(state), back=True), torch.empty_like(g)
    shares = torch.empty_like(starts)
    _launch(_adjoint, g, pairs, starts, states, w, shares, chunks=starts.shape[1])
    w_0 = torch.view_as_complex(w[:, 0])
    first = torch.view_as_complex(state).conj() * w_0
    return w, shares.sum((0, 1)) + torch.view_as_real(first.sum(0)), torch.view_as_real(conj * w_0)
