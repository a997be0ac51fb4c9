"""The scan in compiled loops: one task for each sequence and tile of states, states innermost.

Complex numbers lie in memory as pairs of reals, so a vector holds (re, im, re, im, ...). A task reads its inputs once
and writes its outputs once, which is as fast as copying where the arrays are larger than the caches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gramian.kernels.native import array, compiled, entry, launch, run
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import duplicate_even, duplicate_odd, indices, lanes, splat, swap_pairs, to_reals

__all__ = ["complex_product", "pair_signs", "scan_backward_native", "scan_native"]

_TILE = 128  # numbers a task, at least: below it, threads write to the same cache lines


@compiled
def complex_product(a, b, sign):  # type: ignore[no-untyped-def]
    """``a * b`` for pairs, ``conj(a) * b`` with the opposite `sign`; see `pair_signs`."""
    return duplicate_even(a) * b + sign * duplicate_odd(a) * swap_pairs(b)


@compiled
def pair_signs(real):  # type: ignore[no-untyped-def]
    """``(-1, 1, -1, 1, ...)``."""
    return to_reals((indices(splat(real)) & 1) * 2 - 1)


@compiled
def _forward(index, args, real):  # type: ignore[no-untyped-def]
    B, L, M, tile = args[0], args[1], args[2], args[3]
    tiles = (M + tile - 1) // tile
    b, first = index // tiles, (index % tiles) * tile
    last = min(first + tile, M)
    x, states = array(args[4], (B, L, M), real)[b], array(args[7], (B, L, M), real)[b]
    poles = array(args[5], M, real)
    before = array(args[6], (B, M), real)[b]
    sign = pair_signs(real)
    for t in range(L):
        x_t, now = x[t], states[t]
        for n in range(first, last, lanes(real)):
            h = complex_product(load(poles, n, last), load(before, n, last), sign)
            store(now, n, last, h + load(x_t, n, last))
        before = now


@entry
def _forward_entry(data):  # type: ignore[no-untyped-def]
    run(_forward, data)


@compiled
def _backward(index, args, real):  # type: ignore[no-untyped-def]
    """The adjoint ``w[t] = g[t] + conj(pole) w[t+1]``, and ``sum_t conj(h[t-1]) w[t]`` for the poles."""
    B, L, M, tile = args[0], args[1], args[2], args[3]
    tiles = (M + tile - 1) // tile
    b, first = index // tiles, (index % tiles) * tile
    last = min(first + tile, M)
    g, states = array(args[4], (B, L, M), real)[b], array(args[5], (B, L, M), real)[b]
    state = array(args[6], (B, M), real)[b]
    poles = array(args[7], M, real)
    w = array(args[8], (B, L, M), real)[b]
    g_poles, g_state = array(args[9], (B, M), real)[b], array(args[10], (B, M), real)[b]
    conjugate = pair_signs(real) * -1
    for n in range(first, last):
        g_poles[n], g_state[n] = real, real
    for back in range(L):
        t = L - 1 - back
        g_t, w_t = g[t], w[t]
        before = states[t - 1] if t > 0 else state
        for n in range(first, last, lanes(real)):
            # g_state holds conj(pole) w of the step after this one.
            v = load(g_t, n, last) + load(g_state, n, last)
            store(w_t, n, last, v)
            store(g_state, n, last, complex_product(load(poles, n, last), v, conjugate))
            store(g_poles, n, last, load(g_poles, n, last) + complex_product(load(before, n, last), v, conjugate))


@entry
def _backward_entry(data):  # type: ignore[no-untyped-def]
    run(_backward, data)


def _tiling(batch: int, numbers: int) -> tuple[int, int]:
    """Numbers a task, and how many tasks that makes: whole sequences where there are enough of them."""
    wanted = 2 * torch.get_num_threads()
    tiles = 1 if batch >= wanted else min(-(-numbers // _TILE), -(-wanted // batch))
    tile = -(-numbers // (tiles * 16)) * 16  # whole vectors
    return tile, batch * -(-numbers // tile)


def scan_native(x: Tensor, poles: Tensor, state: Tensor) -> Tensor:
    """All states, ``(B, L, N, 2)``, of contiguous CPU tensors: see `gramian.kernels.scan.scan`; ``L >= 1``."""
    B, L, N, _ = x.shape
    states = torch.empty_like(x)
    tile, tasks = _tiling(B, 2 * N)
    launch(_forward_entry, tasks, x.dtype, B, L, 2 * N, tile, x, poles, state, states)
    return states


def scan_backward_native(g: Tensor, states: Tensor, state: Tensor, poles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for inputs, poles and first state, from that of the states."""
    B, L, N, _ = g.shape
    w, g_poles, g_state = torch.empty_like(g), torch.empty_like(state), torch.empty_like(state)
    tile, tasks = _tiling(B, 2 * N)
    launch(_backward_entry, tasks, g.dtype, B, L, 2 * N, tile, g, states, state, poles, w, g_poles, g_state)
    return w, g_poles.sum(0), g_state
