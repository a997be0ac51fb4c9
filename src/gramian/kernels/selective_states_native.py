"""The states of a selective recurrence in compiled loops: states in the lanes of a vector, and in registers over time.

A task takes some channels of one sequence, one after the other, 64 states at a time. States are filled up to whole
vectors with zeros, in everything but the output.
"""

from __future__ import annotations

from numba.extending import register_jitable

from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.vector_memory import broadcast, load_whole, store, store_whole
from gramian.kernels.vector_power import power_of_two
from gramian.kernels.vectors import lanes

__all__ = ["CHANNELS", "VECTORS", "states_entry"]

CHANNELS = 16  # of a task
VECTORS = 4  # of states in registers

# The arguments of a task. ROWS counts states filled up to VECTORS vectors, OUTPUTS the steps that are wanted; WANTED is
# the place of every step in the output, or -1; LOG_GATE is not read unless GATED.
LENGTH, GROUPS, WIDTH, ORDER, ROWS, OUTPUTS, GATED = range(7)
_WANTED, _INPUT, _DT, _A, _B, _LOG_GATE, _STATE, _OUT = range(7, 15)


@register_jitable
def _next(h, d, v, A, B, gate, gated, n, k, W):  # type: ignore[no-untyped-def]
    """One vector of states a step later; n finds it in A, k in B and in the gates."""
    exponent = d * load_whole(A, n)
    if gated:
        exponent = exponent + load_whole(gate, k)
    return power_of_two(exponent) * h + v * load_whole(B, k)


@compiled
def _channel(args, b, g, p, real):  # type: ignore[no-untyped-def]
    """One channel through time."""
    W, length, groups, width = lanes(real), args[LENGTH], args[GROUPS], args[WIDTH]
    rows, order, gated = args[ROWS], args[ORDER], args[GATED]
    channel, channels = g * width + p, groups * width
    wanted = array(args[_WANTED], length, 0)
    x, dt = array(args[_INPUT], 1 << 40, real), array(args[_DT], 1 << 40, real)
    A, B, gate = array(args[_A], 1 << 40, real), array(args[_B], 1 << 40, real), array(args[_LOG_GATE], 1 << 40, real)
    state, out = array(args[_STATE], 1 << 40, real), array(args[_OUT], 1 << 40, real)
    for n in range(0, rows, VECTORS * W):
        a, s = channel * rows + n, (b * channels + channel) * rows + n
        h0, h1 = load_whole(state, s), load_whole(state, s + W)
        h2, h3 = load_whole(state, s + 2 * W), load_whole(state, s + 3 * W)
        for t in range(length):
            i, k = (b * length + t) * channels + channel, ((b * length + t) * groups + g) * rows + n
            d, v = broadcast(dt, i), broadcast(x, i)
            h0 = _next(h0, d, v, A, B, gate, gated, a, k, W)
            h1 = _next(h1, d, v, A, B, gate, gated, a + W, k + W, W)
            h2 = _next(h2, d, v, A, B, gate, gated, a + 2 * W, k + 2 * W, W)
            h3 = _next(h3, d, v, A, B, gate, gated, a + 3 * W, k + 3 * W, W)
            if wanted[t] >= 0:
                start = ((b * args[OUTPUTS] + wanted[t]) * channels + channel) * order
                first, end = start + n, start + order
                store(out, first, end, h0)
                store(out, first + W, end, h1)
                store(out, first + 2 * W, end, h2)
                store(out, first + 3 * W, end, h3)
        store_whole(state, s, h0)
        store_whole(state, s + W, h1)
        store_whole(state, s + 2 * W, h2)
        store_whole(state, s + 3 * W, h3)


@compiled
def _states(index, args, real):  # type: ignore[no-untyped-def]
    splits = -(-args[WIDTH] // CHANNELS)
    b, g, first = index // (args[GROUPS] * splits), index // splits % args[GROUPS], index % splits * CHANNELS
    for p in range(first, min(first + CHANNELS, args[WIDTH])):
        _channel(args, b, g, p, real)


@entry
def states_entry(data):  # type: ignore[no-untyped-def]
    run(_states, data)
