"""The causal convolution of every channel and its activation, in compiled loops: row by row, channels in the lanes.

A task takes some tiles of channels of one sequence through time. The backward pass goes from the last step to the
first, and keeps the gradients ahead of the activation for the last `width` steps, which is what an input's gradient is
made of. Weights lie as ``(width, tiles, lanes)``, filled up with zeros.
"""

from __future__ import annotations

from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.selective_math import silu, silu_and_slope
from gramian.kernels.vector_memory import load, load_whole, store, store_whole
from gramian.kernels.vectors import lanes, splat

__all__ = ["backward_entry", "forward_entry"]

_BATCH, _LENGTH, _CHANNELS, _WIDTH, _SPLITS, _TILES, _SHARE, _SILU = range(8)
_X, _X_BATCH, _X_ROW, _STATE, _WEIGHT, _BIAS, _Y = range(8, 15)
_G, _G_BATCH, _G_ROW, _G_X, _G_STATE, _SUMS, _RING = range(14, 21)


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
def _input(x, x_row, state, row, t, c, end, width):  # type: ignore[no-untyped-def]
    """Inputs of a tile; those before the first step are in `state`."""
    if t >= 0:
        return load(x, t * x_row + c, t * x_row + end)
    s = (t + width - 1) * row
    return load(state, s + c, s + end)


@compiled
def _filtered(x, x_row, state, row, weight, bias, lines, t, c, end, width, real):  # type: ignore[no-untyped-def]
    """What the activation is given, for a tile."""
    y = load_whole(bias, c)
    for k in range(width):
        y = y + load_whole(weight, k * lines + c) * _input(x, x_row, state, row, t + k + 1 - width, c, end, width)
    return y


@compiled
def _forward(index, args, real):  # type: ignore[no-untyped-def]
    b, first, end = _place(index, args, real)
    L, row, width, lines = args[_LENGTH], args[_CHANNELS], args[_WIDTH], args[_TILES] * lanes(real)
    x, x_row = _rows(args, _X, b, real)
    state = array(args[_STATE], (args[_BATCH], (width - 1) * row), real)[b]
    weight, bias = array(args[_WEIGHT], width * lines, real), array(args[_BIAS], lines, real)
    y = array(args[_Y], (args[_BATCH], L * row), real)[b]
    for t in range(L):
        for c in range(first, end, lanes(real)):
            v = _filtered(x, x_row, state, row, weight, bias, lines, t, c, end, width, real)
            if args[_SILU]:
                v = silu(v)
            store(y, t * row + c, t * row + end, v)


@entry
def forward_entry(data):  # type: ignore[no-untyped-def]
    run(_forward, data)


@compiled
def _accumulate(sums, i, v):  # type: ignore[no-untyped-def]
    store_whole(sums, i, load_whole(sums, i) + v)


@compiled
def _spread(ring, weight, lines, slot, c, width, real):  # type: ignore[no-untyped-def]
    """The gradient of one input: step t lies in this slot, those after it in the next ones."""
    v, s = splat(real), slot
    for k in range(width):
        v = v + load_whole(weight, (width - 1 - k) * lines + c) * load_whole(ring, s * lines + c)
        s = s + 1 if s + 1 < width else 0
    return v


@compiled
def _backward(index, args, real):  # type: ignore[no-untyped-def]
    """`sums`, for weights and then the bias, and `ring`, of `width` steps, are zero at first."""
    b, first, end = _place(index, args, real)
    L, row, width, lines = args[_LENGTH], args[_CHANNELS], args[_WIDTH], args[_TILES] * lanes(real)
    x, x_row = _rows(args, _X, b, real)
    g, g_row = _rows(args, _G, b, real)
    state = array(args[_STATE], (args[_BATCH], (width - 1) * row), real)[b]
    weight, bias = array(args[_WEIGHT], width * lines, real), array(args[_BIAS], lines, real)
    g_x = array(args[_G_X], (args[_BATCH], L * row), real)[b]
    g_state = array(args[_G_STATE], (args[_BATCH], (width - 1) * row), real)[b]
    sums = array(args[_SUMS], (args[_BATCH], (width + 1) * lines), real)[b]
    ring = array(args[_RING], (args[_BATCH], width * lines), real)[b]
    for t in range(L - 1, -1, -1):
        slot = t % width
        for c in range(first, end, lanes(real)):
            v = load(g, t * g_row + c, t * g_row + end)
            if args[_SILU]:
                y = _filtered(x, x_row, state, row, weight, bias, lines, t, c, end, width, real)
                v = v * silu_and_slope(y)[1]
            for k in range(width):
                x_k = _input(x, x_row, state, row, t + k + 1 - width, c, end, width)
                _accumulate(sums, k * lines + c, v * x_k)
            _accumulate(sums, width * lines + c, v)
            store_whole(ring, slot * lines + c, v)
            store(g_x, t * row + c, t * row + end, _spread(ring, weight, lines, slot, c, width, real))
    for t in range(-1, -width, -1):
        slot, s = t + width, (t + width - 1) * row
        for c in range(first, end, lanes(real)):
            store_whole(ring, slot * lines + c, splat(real))
            store(g_state, s + c, s + end, _spread(ring, weight, lines, slot, c, width, real))


@entry
def backward_entry(data):  # type: ignore[no-untyped-def]
    run(_backward, data)
