"""Step sizes and decays of matrix states, which a layer makes of a few columns of its input, a sequence at a time.

delta = softplus(dt + bias)                 log_decay = -exp(A_log) delta, with an A_log for each head
"""

from __future__ import annotations

from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.selective_math import softplus, softplus_and_slope
from gramian.kernels.vector_math import exp
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, splat

__all__ = ["backward_entry", "forward_entry"]


@compiled
def _forward(index, args, real):  # type: ignore[no-untyped-def]
    batch, L, heads, row = args[0], args[1], args[2], args[3]
    dt, bias = array(args[4], batch * L * row, real), array(args[5], heads, real)
    A_log = array(args[6], heads, real)
    delta, logs = array(args[7], batch * L * heads, real), array(args[8], batch * L * heads, real)
    for h in range(0, heads, lanes(real)):
        offset, rate = load(bias, h, heads), splat(real) - exp(load(A_log, h, heads))
        for t in range(index * L, index * L + L):
            v = softplus(load(dt, t * row + h, t * row + heads) + offset)
            store(delta, t * heads + h, t * heads + heads, v)
            store(logs, t * heads + h, t * heads + heads, v * rate)


@compiled
def _backward(index, args, real):  # type: ignore[no-untyped-def]
    """The gradient of dt, and for each sequence the sums for those of the bias and of A_log."""
    batch, L, heads, row = args[0], args[1], args[2], args[3]
    dt, bias = array(args[4], batch * L * row, real), array(args[5], heads, real)
    A_log = array(args[6], heads, real)
    delta, g_delta = array(args[7], batch * L * heads, real), array(args[8], batch * L * heads, real)
    g_logs, sums = array(args[9], batch * L * heads, real), array(args[10], batch * 2 * heads, real)
    g_row, g_dt = args[11], array(args[12], batch * L * args[11], real)
    for h in range(0, heads, lanes(real)):
        s, s_A = splat(real), splat(real)
        offset, rate = load(bias, h, heads), splat(real) - exp(load(A_log, h, heads))
        for t in range(index * L, index * L + L):
            k, end = t * heads + h, t * heads + heads
            g, slope = load(g_logs, k, end), softplus_and_slope(load(dt, t * row + h, t * row + heads) + offset)[1]
            s_A = s_A + g * load(delta, k, end)
            g = (load(g_delta, k, end) + g * rate) * slope
            s = s + g
            store(g_dt, t * g_row + h, t * g_row + heads, g)
        store(sums, index * 2 * heads + h, index * 2 * heads + heads, s)
        store(sums, index * 2 * heads + heads + h, index * 2 * heads + 2 * heads, s_A * rate)


@entry
def forward_entry(data):  # type: ignore[no-untyped-def]
    """Sequences, steps, heads; numbers from row to row of dt, dt, bias, A_log; step sizes and logs of decays."""
    run(_forward, data)


@entry
def backward_entry(data):  # type: ignore[no-untyped-def]
    """Sequences, steps, heads; numbers from row to row of dt, dt, bias, A_log; step sizes, gradients of these and of
    the logs, sums ``(sequences, 2, heads)``; numbers from row to row of the gradient of dt, and that."""
    run(_backward, data)
