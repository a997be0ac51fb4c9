"""The selective scan in compiled loops, backwards: block after block from the last one on.

A block's states are computed again from those at its start, and kept in the first cache with their decays. With the
gradient ``g`` of ``sum_n C h + D u``, the adjoint of a state is ``w[t] = C[t] g[t] + a[t+1] w[t+1]``, and with
``q[t] = a[t] w[t] h[t-1]``::

    dA = sum_t delta q      ddelta = sum_n A q + u dx      dx = sum_n B w  (x = delta u)      dB = w x      dC = h g

dB and dC are sums over channels. Four states at a time go through all tiles of a task, so that the lanes of these sums
stay in the first cache too, and are added up once a block.
"""

from __future__ import annotations

from numba.extending import register_jitable

from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.selective_math import silu_and_slope, softplus_and_slope
from gramian.kernels.selective_native import (
    BATCH,
    BLOCK,
    BLOCKS,
    CHANNELS,
    GATED,
    GROUPS,
    ORDER,
    POSITIVE,
    ROWS,
    SHARE,
    SPLITS,
    TILES,
    copy_rows,
    of_tiles,
    panel_room,
    place,
    steps_of,
    strip,
    whole_strip,
)
from gramian.kernels.vector_memory import broadcast, load, load_whole, store, store_whole
from gramian.kernels.vector_power import power_of_two
from gramian.kernels.vector_sums import totals
from gramian.kernels.vectors import lanes, splat, splat_like

__all__ = ["backward_entry", "backward_room"]

_FROM_ZERO = 12  # whether the adjoint states are zero at first
_U, _DT, _Z, _B, _C, _G = range(13, 37, 4)  # strips
_PLAIN, _G_U, _G_DT, _G_Z, _G_B, _G_C = range(37, 43)
_A, _D, _BIAS, _BOUNDARY, _ADJOINT, _SUMS, _WORK = range(43, 50)


@register_jitable
def backward_room(share, rows, W):  # type: ignore[no-untyped-def]
    """Numbers that a task wants for itself: six panels, four arrays of a block of four states, B and C."""
    return 6 * panel_room(share, W) + 4 * panel_room(5, W) + 2 * BLOCK * rows


@compiled
def _fill(args, b, g, first, own, t, T, delta, slope, x, g_y, real):  # type: ignore[no-untyped-def]
    """Panels of a block: step sizes and their slopes, ``delta u``, and the gradient of ``sum_n C h + D u``."""
    W, end = lanes(real), args[CHANNELS]
    u, u_row = strip(args, _U, b, g, t, real)
    dt, dt_row = strip(args, _DT, b, g, t, real)
    z, z_row = strip(args, _Z, b, g, t, real)
    back, back_row = strip(args, _G, b, g, t, real)
    plain, row = whole_strip(args, _PLAIN, b, g, t, end, real)
    g_z, _ = whole_strip(args, _G_Z, b, g, t, end, real)
    bias = of_tiles(args, _BIAS, g, first, real)
    for s in range(T):
        for j in range(own):
            c, p, i = (first + j) * W, (j * T + s) * W, s * row
            d = load(dt, s * dt_row + c, s * dt_row + end) + load_whole(bias, j * W)
            rise = splat_like(d, 1.0)
            if args[POSITIVE]:
                d, rise = softplus_and_slope(d)
            value = load(back, s * back_row + c, s * back_row + end)
            if args[GATED]:
                gate, gate_slope = silu_and_slope(load(z, s * z_row + c, s * z_row + end))
                store(g_z, i + c, i + end, value * gate_slope * load(plain, i + c, i + end))
                value = value * gate
            store_whole(delta, p, d)
            store_whole(slope, p, rise)
            store_whole(x, p, d * load(u, s * u_row + c, s * u_row + end))
            store_whole(g_y, p, value)


@compiled
def _clear(panel, count, real):  # type: ignore[no-untyped-def]
    for i in range(count):
        store_whole(panel, i * lanes(real), splat(real))


@compiled
def _replay(A, states, i, at, delta, x, p, B, k, a, h, T, real):  # type: ignore[no-untyped-def]
    """Decays and states of a block, four of each a step; ``h[0]`` is before the block."""
    W = lanes(real)
    a0, a1, a2, a3 = load_whole(A, i), load_whole(A, i + W), load_whole(A, i + 2 * W), load_whole(A, i + 3 * W)
    h0, h1 = load_whole(states, at), load_whole(states, at + W)
    h2, h3 = load_whole(states, at + 2 * W), load_whole(states, at + 3 * W)
    store_whole(h, 0, h0)
    store_whole(h, W, h1)
    store_whole(h, 2 * W, h2)
    store_whole(h, 3 * W, h3)
    for t in range(T):
        d, v, o = load_whole(delta, p), load_whole(x, p), 4 * t * W
        e = power_of_two(d * a0)
        h0 = e * h0 + v * broadcast(B, k)
        store_whole(a, o, e)
        store_whole(h, o + 4 * W, h0)
        e = power_of_two(d * a1)
        h1 = e * h1 + v * broadcast(B, k + 1)
        store_whole(a, o + W, e)
        store_whole(h, o + 5 * W, h1)
        e = power_of_two(d * a2)
        h2 = e * h2 + v * broadcast(B, k + 2)
        store_whole(a, o + 2 * W, e)
        store_whole(h, o + 6 * W, h2)
        e = power_of_two(d * a3)
        h3 = e * h3 + v * broadcast(B, k + 3)
        store_whole(a, o + 3 * W, e)
        store_whole(h, o + 7 * W, h3)
        k, p = k + 4, p + W


@compiled
def _step_back(carry, A, s, d, v, y, g_d, g_x, B, C, k, a, h, g_B, g_C, o, real):  # type: ignore[no-untyped-def]
    """One state, one step back: `carry` is ``a[t+1] w[t+1]``, `s` its sum of ``delta q``."""
    w = carry + y * broadcast(C, k)
    store_whole(g_C, o, load_whole(g_C, o) + y * load_whole(h, o + 4 * lanes(real)))
    store_whole(g_B, o, load_whole(g_B, o) + w * v)
    carry = w * load_whole(a, o)
    q = carry * load_whole(h, o)
    return carry, s + q * d, g_d + q * A, g_x + w * broadcast(B, k)


@compiled
def _retreat(A, adjoint, g_A, i, delta, x, g_y, g_delta, g_xs, p, B, C, k, a, h, g_B, g_C, T, real):  # type: ignore[no-untyped-def]
    """Four states of a tile back through a block."""
    W = lanes(real)
    A0, A1, A2, A3 = load_whole(A, i), load_whole(A, i + W), load_whole(A, i + 2 * W), load_whole(A, i + 3 * W)
    c0, c1 = load_whole(adjoint, i), load_whole(adjoint, i + W)
    c2, c3 = load_whole(adjoint, i + 2 * W), load_whole(adjoint, i + 3 * W)
    s0, s1 = load_whole(g_A, i), load_whole(g_A, i + W)
    s2, s3 = load_whole(g_A, i + 2 * W), load_whole(g_A, i + 3 * W)
    for back in range(T):
        t = T - 1 - back
        m, n, o = p + t * W, k + 4 * t, 4 * t * W
        d, v, y, e, r = (
            load_whole(delta, m),
            load_whole(x, m),
            load_whole(g_y, m),
            load_whole(g_delta, m),
            load_whole(g_xs, m),
        )
        c0, s0, e, r = _step_back(c0, A0, s0, d, v, y, e, r, B, C, n, a, h, g_B, g_C, o, real)
        c1, s1, e, r = _step_back(c1, A1, s1, d, v, y, e, r, B, C, n + 1, a, h, g_B, g_C, o + W, real)
        c2, s2, e, r = _step_back(c2, A2, s2, d, v, y, e, r, B, C, n + 2, a, h, g_B, g_C, o + 2 * W, real)
        c3, s3, e, r = _step_back(c3, A3, s3, d, v, y, e, r, B, C, n + 3, a, h, g_B, g_C, o + 3 * W, real)
        store_whole(g_delta, m, e)
        store_whole(g_xs, m, r)
    store_whole(adjoint, i, c0)
    store_whole(adjoint, i + W, c1)
    store_whole(adjoint, i + 2 * W, c2)
    store_whole(adjoint, i + 3 * W, c3)
    store_whole(g_A, i, s0)
    store_whole(g_A, i + W, s1)
    store_whole(g_A, i + 2 * W, s2)
    store_whole(g_A, i + 3 * W, s3)


@compiled
def _add_up(args, k, b, g, part, t, T, sums, n, real):  # type: ignore[no-untyped-def]
    """Gradients of B or C for four states, ``(T, 4)`` vectors of which the lanes are added up."""
    out, row = whole_strip(args, k, part * args[BATCH] + b, g, t, args[ORDER], real)
    W, end = lanes(real), min(n + 4, args[ORDER])
    for i in range(0, 4 * T, W):
        store_whole(sums, i, totals(sums, i * W))
    for s in range(T):
        store(out, s * row + n, s * row + end, load(sums, 4 * s, 4 * s + 4))


@compiled
def _finish(args, b, g, first, own, t, T, delta, slope, g_y, g_delta, g_x, g_D, g_bias, real):  # type: ignore[no-untyped-def]
    """Gradients of inputs and step sizes, and a block's part of those of D and the bias."""
    W, end = lanes(real), args[CHANNELS]
    u, u_row = strip(args, _U, b, g, t, real)
    g_u, row = whole_strip(args, _G_U, b, g, t, end, real)
    g_dt, _ = whole_strip(args, _G_DT, b, g, t, end, real)
    D = of_tiles(args, _D, g, first, real)
    for s in range(T):
        for j in range(own):
            c, p, i, m = (first + j) * W, (j * T + s) * W, s * row, j * W
            u_s, y, r = load(u, s * u_row + c, s * u_row + end), load_whole(g_y, p), load_whole(g_x, p)
            e = (load_whole(g_delta, p) * 0.6931471805599453 + r * u_s) * load_whole(slope, p)  # A is in units of log 2
            store(g_dt, i + c, i + end, e)
            store(g_u, i + c, i + end, r * load_whole(delta, p) + load_whole(D, m) * y)
            store_whole(g_D, m, load_whole(g_D, m) + y * u_s)
            store_whole(g_bias, m, load_whole(g_bias, m) + e)


@compiled
def _start(args, adjoint, sums, g_D, g_bias, mine, own, real):  # type: ignore[no-untyped-def]
    """Zeros for the sums of a task's tiles, and for the adjoint states where no gradient of final ones is known."""
    W, tiles = lanes(real), args[GROUPS] * args[TILES]
    for n in range(0, args[ROWS], 4):
        i = (n * tiles + 4 * mine) * W
        _clear(sums[i:], 4 * own, real)
        if args[_FROM_ZERO]:
            _clear(adjoint[i:], 4 * own, real)
    _clear(g_D, own, real)
    _clear(g_bias, own, real)


@compiled
def _backward(index, args, real):  # type: ignore[no-untyped-def]
    """The tiles of one task."""
    b, g, first, own = place(index, args)
    W, rows, tiles, mine = lanes(real), args[ROWS], args[GROUPS] * args[TILES], g * args[TILES] + first
    numbers, panel, four = rows * tiles * W, panel_room(args[SHARE], W), panel_room(5, W)
    A = array(args[_A], numbers, real)
    states = array(args[_BOUNDARY], (args[BATCH], (args[BLOCKS] + 1) * numbers), real)[b]
    adjoint = array(args[_ADJOINT], (args[BATCH], numbers), real)[b]
    sums = array(args[_SUMS], (args[BATCH], (rows + 2) * tiles * W), real)[b]
    g_D, g_bias = sums[numbers + mine * W :], sums[numbers + (tiles + mine) * W :]
    _start(args, adjoint, sums, g_D, g_bias, mine, own, real)
    work = array(args[_WORK], (index + 1, backward_room(args[SHARE], rows, W)), real)[index]
    delta, slope, x = work, work[panel:], work[2 * panel :]
    g_y, g_delta, g_x, rest = work[3 * panel :], work[4 * panel :], work[5 * panel :], work[6 * panel :]
    a, h, g_B, g_C = rest, rest[four:], rest[2 * four :], rest[3 * four :]
    B, C = rest[4 * four :], rest[4 * four + BLOCK * rows :]
    for back in range(args[BLOCKS]):
        k = args[BLOCKS] - 1 - back
        t = k * BLOCK
        T = steps_of(args, t)
        copy_rows(args, _B, b, g, t, T, B, real)
        copy_rows(args, _C, b, g, t, T, C, real)
        _fill(args, b, g, first, own, t, T, delta, slope, x, g_y, real)
        _clear(g_delta, own * T, real)
        _clear(g_x, own * T, real)
        for n in range(0, rows, 4):
            _clear(g_B, 4 * T, real)
            _clear(g_C, 4 * T, real)
            for j in range(own):
                i, p = (n * tiles + 4 * (mine + j)) * W, j * T * W
                _replay(A, states, i, k * numbers + i, delta, x, p, B, n * T, a, h, T, real)
                _retreat(A, adjoint, sums, i, delta, x, g_y, g_delta, g_x, p, B, C, n * T, a, h, g_B, g_C, T, real)
            part = index % args[SPLITS]
            _add_up(args, _G_B, b, g, part, t, T, g_B, n, real)
            _add_up(args, _G_C, b, g, part, t, T, g_C, n, real)
        _finish(args, b, g, first, own, t, T, delta, slope, g_y, g_delta, g_x, g_D, g_bias, real)


@entry
def backward_entry(data):  # type: ignore[no-untyped-def]
    run(_backward, data)
