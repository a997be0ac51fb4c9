"""The causal convolution of every channel and its activation, in compiled loops: four taps and inputs in registers.

A task takes some tiles of channels of one sequence, as many channels in each as a vector has lanes, through a block of
steps one after the other, and then through the next block: a few rows are read side by side, each from left to right,
as memory likes it. The backward pass goes from the last block to the first. Shorter filters are filled up with zeros.
Weights lie as ``(4, tiles, lanes)``, and the three inputs before the first step as ``(batch, 3, tiles, lanes)``.
"""

from __future__ import annotations

from gramian.kernels.native import array, compiled, entry, inlined, run
from gramian.kernels.selective_math import silu, silu_and_slope
from gramian.kernels.vector_memory import load, load_whole, store, store_whole
from gramian.kernels.vectors import lanes, splat

__all__ = ["TAPS", "backward_entry", "coefficients_entry", "forward_entry"]

TAPS = 4
BLOCK = 8  # steps

_BATCH, _LENGTH, _CHANNELS, _SPLITS, _TILES, _SHARE, _SILU = range(7)
_X, _X_BATCH, _X_ROW, _STATE, _WEIGHT, _BIAS, _Y = range(7, 14)
_G, _G_BATCH, _G_ROW, _G_X, _G_X_BATCH, _G_X_ROW, _G_STATE, _SUMS = range(13, 21)


@compiled
def _coefficients(index, args, real):  # type: ignore[no-untyped-def]
    """Weights as tasks read them, and biases; zeros in front of shorter filters, and behind all."""
    channels, width, line = args[0], args[1], args[2]
    weight, bias = array(args[3], channels * width, real), array(args[4], channels, real)
    rows, none = array(args[5], (TAPS + 1) * line, real), TAPS - width
    for k in range(TAPS):
        for c in range(line):
            rows[k * line + c] = weight[c * width + k - none] if c < channels and k >= none else real
    for c in range(line):
        rows[TAPS * line + c] = bias[c] if c < channels and args[4] else real


@entry
def coefficients_entry(data):  # type: ignore[no-untyped-def]
    """Channels, width, numbers from row to row of the result; weights, biases or 0, the result."""
    run(_coefficients, data)


@compiled
def _place(index, args, real):  # type: ignore[no-untyped-def]
    """Sequence, the first channel of the first tile, and behind the last one."""
    first = index % args[_SPLITS] * args[_SHARE] * lanes(real)
    return index // args[_SPLITS], first, min(first + args[_SHARE] * lanes(real), args[_CHANNELS])


@compiled
def _rows(args, k, b, real):  # type: ignore[no-untyped-def]
    """A sequence of which the arguments from k on are address, and strides of sequences and rows."""
    return array(args[k] + b * args[k + 1] * (64 // lanes(real)), 1 << 40, real), args[k + 2]


@compiled
def _taps(args, c, real):  # type: ignore[no-untyped-def]
    """Weights of a tile, oldest input first, and its bias."""
    line = args[_TILES] * lanes(real)
    w, bias = array(args[_WEIGHT], TAPS * line, real), array(args[_BIAS], line, real)
    taps = load_whole(w, c), load_whole(w, line + c), load_whole(w, 2 * line + c), load_whole(w, 3 * line + c)
    return *taps, load_whole(bias, c)


@compiled
def _input(x, row, state, line, t, c, end):  # type: ignore[no-untyped-def]
    """Inputs of a tile at step t; those before the first step are in `state`."""
    if t >= 0:
        return load(x, t * row + c, t * row + end)
    return load_whole(state, (t + TAPS - 1) * line + c)


@compiled
def _forward(index, args, real):  # type: ignore[no-untyped-def]
    b, first, end = _place(index, args, real)
    L, channels, line = args[_LENGTH], args[_CHANNELS], args[_TILES] * lanes(real)
    x, row = _rows(args, _X, b, real)
    state = array(args[_STATE], (args[_BATCH], (TAPS - 1) * line), real)[b]
    y = array(args[_Y], (args[_BATCH], L * channels), real)[b]
    for start in range(0, L, BLOCK):
        for c in range(first, end, lanes(real)):
            w0, w1, w2, w3, bias = _taps(args, c, real)
            x0, x1 = _input(x, row, state, line, start - 3, c, end), _input(x, row, state, line, start - 2, c, end)
            x2 = _input(x, row, state, line, start - 1, c, end)
            for t in range(start, min(start + BLOCK, L)):
                x3 = load(x, t * row + c, t * row + end)
                v = bias + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3
                if args[_SILU]:
                    v = silu(v)
                store(y, t * channels + c, t * channels + end, v)
                x0, x1, x2 = x1, x2, x3


@entry
def forward_entry(data):  # type: ignore[no-untyped-def]
    run(_forward, data)


@compiled
def _clear(a, first, end, line, rows, real):  # type: ignore[no-untyped-def]
    """Zeros in some columns of all rows."""
    for k in range(rows):
        for c in range(first, end, lanes(real)):
            store_whole(a, k * line + c, splat(real))


@inlined
def _tile_back(args, c, end, start, stop, x, row, g, g_row, g_x, g_x_row, state, later, sums, real):  # type: ignore[no-untyped-def]
    """One tile through one block. `later` holds what came ahead of the activation one to three steps later."""
    line = args[_TILES] * lanes(real)
    w0, w1, w2, w3, bias = _taps(args, c, real)
    x1, x2 = _input(x, row, state, line, stop - 3, c, end), _input(x, row, state, line, stop - 2, c, end)
    x3 = _input(x, row, state, line, stop - 1, c, end)
    s0, s1, s2 = load_whole(sums, c), load_whole(sums, line + c), load_whole(sums, 2 * line + c)
    s3, s4 = load_whole(sums, 3 * line + c), load_whole(sums, 4 * line + c)
    g1, g2, g3 = load_whole(later, c), load_whole(later, line + c), load_whole(later, 2 * line + c)
    for t in range(stop - 1, start - 1, -1):
        x0 = _input(x, row, state, line, t - 3, c, end)
        g0 = load(g, t * g_row + c, t * g_row + end)
        if args[_SILU]:
            g0 = g0 * silu_and_slope(bias + w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3)[1]
        s0, s1, s2, s3, s4 = s0 + g0 * x0, s1 + g0 * x1, s2 + g0 * x2, s3 + g0 * x3, s4 + g0
        store(g_x, t * g_x_row + c, t * g_x_row + end, w3 * g0 + w2 * g1 + w1 * g2 + w0 * g3)
        x1, x2, x3 = x0, x1, x2
        g1, g2, g3 = g0, g1, g2
    store_whole(later, c, g1)
    store_whole(later, line + c, g2)
    store_whole(later, 2 * line + c, g3)
    store_whole(sums, c, s0)
    store_whole(sums, line + c, s1)
    store_whole(sums, 2 * line + c, s2)
    store_whole(sums, 3 * line + c, s3)
    store_whole(sums, 4 * line + c, s4)


@compiled
def _backward(index, args, real):  # type: ignore[no-untyped-def]
    """Gradients for inputs and the state, and sums over a sequence for weights and, in a fifth row, the bias."""
    b, first, end = _place(index, args, real)
    L, line = args[_LENGTH], args[_TILES] * lanes(real)
    x, row = _rows(args, _X, b, real)
    g, g_row = _rows(args, _G, b, real)
    g_x, g_x_row = _rows(args, _G_X, b, real)
    state = array(args[_STATE], (args[_BATCH], (TAPS - 1) * line), real)[b]
    later = array(args[_G_STATE], (args[_BATCH], (TAPS - 1) * line), real)[b]
    sums = array(args[_SUMS], (args[_BATCH], (TAPS + 1) * line), real)[b]
    _clear(later, first, end, line, TAPS - 1, real)
    _clear(sums, first, end, line, TAPS + 1, real)
    for stop in range(L, 0, -BLOCK):
        for c in range(first, end, lanes(real)):
            start = max(0, stop - BLOCK)
            _tile_back(args, c, end, start, stop, x, row, g, g_row, g_x, g_x_row, state, later, sums, real)
    for c in range(first, end, lanes(real)):
        w0, w1, w2, _, _ = _taps(args, c, real)
        g1, g2, g3 = load_whole(later, c), load_whole(later, line + c), load_whole(later, 2 * line + c)
        store_whole(later, 2 * line + c, w2 * g1 + w1 * g2 + w0 * g3)
        store_whole(later, line + c, w1 * g1 + w0 * g2)
        store_whole(later, c, w0 * g1)


@entry
def backward_entry(data):  # type: ignore[no-untyped-def]
    run(_backward, data)
