"""The selective scan in compiled loops, forwards: channels in the lanes of a vector, states in registers.

A task takes some *tiles* of channels, as many in each as a vector has lanes, through one *block* of time after the
other. Within a block, a tile's states go through time four at a time, in registers, while the scalars ``B[t, n]`` and
``C[t, n]`` are broadcast; so of all states only those at the boundaries of blocks are written. Sequences are read and
written row by row, to and from *panels* of ``(tiles, T, lanes)``.

What belongs to channels and states, ``A log2(e)`` and the states at a boundary, is ``(states / 4, tiles, 4, lanes)``;
what belongs to channels alone, ``(tiles, lanes)``. Both are filled up with zeros.
"""

from __future__ import annotations

from numba.extending import register_jitable

from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.selective_math import silu, softplus
from gramian.kernels.vector_memory import broadcast, load, load_whole, prepare, store, store_whole
from gramian.kernels.vector_power import power_of_two
from gramian.kernels.vectors import lanes

__all__ = [
    "BLOCK",
    "CHANNELS",
    "copy_rows",
    "forward_entry",
    "forward_room",
    "of_tiles",
    "panel_room",
    "place",
    "steps_of",
    "strip",
    "whole_strip",
]

BLOCK = 16  # time steps

# The first arguments of a task. CHANNELS and TILES count those of one group; SHARE, the tiles of one task; ROWS, the
# states filled up to a multiple of four. KEPT is 1 where the states at all boundaries are kept, otherwise 0.
BATCH, LENGTH, ORDER, GROUPS, CHANNELS, SPLITS, TILES, SHARE, BLOCKS, ROWS, POSITIVE, GATED, KEPT = range(13)
_U, _DT, _Z, _B, _C = range(13, 33, 4)  # strips
_Y, _PLAIN, _A, _D, _BIAS, _BOUNDARY, _WORK = range(33, 40)


@register_jitable
def panel_room(share, W):  # type: ignore[no-untyped-def]
    """Numbers of a panel, and some more: arrays of which the addresses are alike modulo 4096 hinder each other."""
    return (share * BLOCK + 5) * W


@register_jitable
def forward_room(share, rows, W):  # type: ignore[no-untyped-def]
    """Numbers that a task wants for itself: three panels, B and C."""
    return 3 * panel_room(share, W) + 2 * BLOCK * rows


@compiled
def place(index, args):  # type: ignore[no-untyped-def]
    """Of a task: its sequence, its group of channels, its first tile there, and how many tiles it has."""
    splits, groups, share = args[SPLITS], args[GROUPS], args[SHARE]
    first, sequence = index % splits * share, index // splits
    return sequence // groups, sequence % groups, first, min(share, args[TILES] - first)


@compiled
def strip(args, k, b, g, t, real):  # type: ignore[no-untyped-def]
    """Rows of a sequence from step t on, columns of one group, and the distance from row to row.

    Arguments k to k + 3 are an address, and strides of sequences, groups and rows.
    """
    start = b * args[k + 1] + g * args[k + 2] + t * args[k + 3]
    return array(args[k] + start * (64 // lanes(real)), 1 << 40, real), args[k + 3]


@compiled
def whole_strip(args, k, b, g, t, columns, real):  # type: ignore[no-untyped-def]
    """`strip` of a contiguous tensor, ``(batch, L, groups, columns)``, of which argument k is the address."""
    row = args[GROUPS] * columns
    start = (b * args[LENGTH] + t) * row + g * columns
    return array(args[k] + start * (64 // lanes(real)), 1 << 40, real), row


@compiled
def of_tiles(args, k, g, first, real):  # type: ignore[no-untyped-def]
    """What belongs to channels, ``(tiles, lanes)``, from a task's first tile on."""
    W = lanes(real)
    return array(args[k], args[GROUPS] * args[TILES] * W, real)[(g * args[TILES] + first) * W :]


@compiled
def steps_of(args, t):  # type: ignore[no-untyped-def]
    """Steps of the block that starts at t."""
    return min(BLOCK, args[LENGTH] - t)


@compiled
def copy_rows(args, k, b, g, t, T, target, real):  # type: ignore[no-untyped-def]
    """B or C of a block as ``(states / 4, T, 4)``: what four states need, step after step."""
    source, row = strip(args, k, b, g, t, real)
    for n in range(0, args[ROWS], 4):
        end = min(n + 4, args[ORDER])
        for s in range(T):
            to = n * T + 4 * s
            store(target, to, to + 4, load(source, s * row + n, s * row + end))


@compiled
def _fill(args, b, g, first, own, t, T, delta, x, y, real):  # type: ignore[no-untyped-def]
    """Panels of a block: step sizes, ``delta u``, and ``D u``."""
    W, end = lanes(real), args[CHANNELS]
    u, u_row = strip(args, _U, b, g, t, real)
    dt, dt_row = strip(args, _DT, b, g, t, real)
    D, bias = of_tiles(args, _D, g, first, real), of_tiles(args, _BIAS, g, first, real)
    for s in range(T):
        for j in range(own):
            c, p = (first + j) * W, (j * T + s) * W
            u_s = load(u, s * u_row + c, s * u_row + end)
            d = load(dt, s * dt_row + c, s * dt_row + end) + load_whole(bias, j * W)
            if args[POSITIVE]:
                d = softplus(d)
            store_whole(delta, p, d)
            store_whole(x, p, d * u_s)
            store_whole(y, p, load_whole(D, j * W) * u_s)


@compiled
def _advance(A, a, states, before, after, delta, x, y, p, B, C, k, T, real):  # type: ignore[no-untyped-def]
    """Four states of a tile through a block; ``y[t] += C[t] h[t]``.

    The other integers are where to find these states: in A, in `states` before and after the block, the tile in
    panels, and the states in B and C.
    """
    W, i, j = lanes(real), before, after
    a0, a1, a2, a3 = load_whole(A, a), load_whole(A, a + W), load_whole(A, a + 2 * W), load_whole(A, a + 3 * W)
    h0, h1 = load_whole(states, i), load_whole(states, i + W)
    h2, h3 = load_whole(states, i + 2 * W), load_whole(states, i + 3 * W)
    for q in range(j, j + 4 * W, W):
        prepare(states, q)
    for _ in range(T):
        d, v, s = load_whole(delta, p), load_whole(x, p), load_whole(y, p)
        h0 = power_of_two(d * a0) * h0 + v * broadcast(B, k)
        s = s + h0 * broadcast(C, k)
        h1 = power_of_two(d * a1) * h1 + v * broadcast(B, k + 1)
        s = s + h1 * broadcast(C, k + 1)
        h2 = power_of_two(d * a2) * h2 + v * broadcast(B, k + 2)
        s = s + h2 * broadcast(C, k + 2)
        h3 = power_of_two(d * a3) * h3 + v * broadcast(B, k + 3)
        s = s + h3 * broadcast(C, k + 3)
        store_whole(y, p, s)
        k, p = k + 4, p + W
    store_whole(states, j, h0)
    store_whole(states, j + W, h1)
    store_whole(states, j + 2 * W, h2)
    store_whole(states, j + 3 * W, h3)


@compiled
def _finish(args, b, g, first, own, t, T, panel, real):  # type: ignore[no-untyped-def]
    """Outputs of a block, gated; those without the gate are kept too where a backward pass will want them."""
    W, end = lanes(real), args[CHANNELS]
    y, row = whole_strip(args, _Y, b, g, t, end, real)
    plain, _ = whole_strip(args, _PLAIN, b, g, t, end, real)
    z, z_row = strip(args, _Z, b, g, t, real)
    for s in range(T):
        for j in range(own):
            c, value = (first + j) * W, load_whole(panel, (j * T + s) * W)
            if args[GATED]:
                if args[KEPT]:
                    store(plain, s * row + c, s * row + end, value)
                value = value * silu(load(z, s * z_row + c, s * z_row + end))
            store(y, s * row + c, s * row + end, value)


@compiled
def _forward(index, args, real):  # type: ignore[no-untyped-def]
    b, g, first, own = place(index, args)
    W, rows, tiles = lanes(real), args[ROWS], args[GROUPS] * args[TILES]
    numbers, panel = rows * tiles * W, panel_room(args[SHARE], W)
    A = array(args[_A], numbers, real)
    states = array(args[_BOUNDARY], (args[BATCH], (args[BLOCKS] * args[KEPT] + 1) * numbers), real)[b]
    work = array(args[_WORK], (index + 1, forward_room(args[SHARE], rows, W)), real)[index]
    delta, x, y = work, work[panel:], work[2 * panel :]
    B, C = work[3 * panel :], work[3 * panel + BLOCK * rows :]
    for k in range(args[BLOCKS]):
        t = k * BLOCK
        T = steps_of(args, t)
        copy_rows(args, _B, b, g, t, T, B, real)
        copy_rows(args, _C, b, g, t, T, C, real)
        _fill(args, b, g, first, own, t, T, delta, x, y, real)
        before = k * args[KEPT] * numbers
        after = before + args[KEPT] * numbers
        for j in range(own):
            for n in range(0, rows, 4):
                i = (n * tiles + 4 * (g * args[TILES] + first + j)) * W
                _advance(A, i, states, before + i, after + i, delta, x, y, j * T * W, B, C, n * T, T, real)
        _finish(args, b, g, first, own, t, T, y, real)


@entry
def forward_entry(data):  # type: ignore[no-untyped-def]
    run(_forward, data)
