"""How the compiled kernel of state space duality cuts its work, what a task reads, and where it keeps its blocks."""

from __future__ import annotations

from typing import Any, NamedTuple

from gramian.kernels.native import array, compiled
from gramian.kernels.tiles import ROWS

__all__ = [
    "INPUTS",
    "Chunk",
    "Inputs",
    "Sizes",
    "backward_room",
    "chunk_of",
    "forward_room",
    "inputs_from",
    "place_of",
    "sizes_from",
]

INPUTS = 24  # arguments that both passes have: `Sizes`, and those of `inputs_from`; the last one is the workspace


class Sizes(NamedTuple):
    """``T`` steps a chunk, `each` heads a task; `Pw`, `Nw`, `Tw` are P, N, T up to whole vectors."""

    batch: int
    L: int
    heads: int
    groups: int
    P: int
    N: int
    T: int
    chunks: int
    parts: int
    each: int
    Pw: int
    Nw: int
    Tw: int


class Inputs(NamedTuple):
    """What both passes read. `x_row` and `row` are numbers from step to step of x, and of B and C; `between` are the
    states between chunks, and `first`, an address or 0, those before all."""

    x_row: int
    row: int
    x: Any
    B: Any
    C: Any
    logs: Any
    dt: Any
    D: Any
    between: Any
    first: int


class Chunk(NamedTuple):
    """Its number; its first step among those of all sequences, how many steps it has, and these in whole tiles."""

    c: int
    first: int
    steps: int
    rows: int


class _Place(NamedTuple):
    """Where a task is: heads ``h ... end - 1`` of group g of sequence b."""

    b: int
    g: int
    part: int
    h: int
    end: int


class _Room(NamedTuple):
    """Blocks of a forward workspace, and its size. `S` holds the states of all heads of the task."""

    keys: int
    queries: int
    keys_T: int
    products: int
    decays: int
    values: int
    out: int
    from_start: int
    to_end: int
    S: int
    size: int


class _BackwardRoom(NamedTuple):
    """Further blocks of a backward workspace. `E` holds the gradients of the states of all heads of the task."""

    values_T: int
    dy: int
    d_products: int
    d_all: int
    S_T: int
    E: int
    E_T: int
    received: int
    dB: int
    dC: int
    sums: int
    column: int
    taken: int
    size: int


@compiled
def forward_room(z):  # type: ignore[no-untyped-def]
    """The layout of a forward workspace."""
    n, p, t = z.Tw * z.Nw, z.Tw * z.Pw, z.Tw * z.Tw
    products = 3 * n
    values = products + 2 * t
    from_start = values + 2 * p
    S = from_start + 2 * z.Tw
    size = S + z.each * z.Nw * z.Pw
    return _Room(0, n, 2 * n, products, products + t, values, values + p, from_start, from_start + z.Tw, S, size)


@compiled
def backward_room(z):  # type: ignore[no-untyped-def]
    """The layout of a backward workspace, behind a forward one."""
    n, p, t, s = z.Tw * z.Nw, z.Tw * z.Pw, z.Tw * z.Tw, z.Nw * z.Pw
    first = forward_room(z).size
    products = first + 2 * p
    S_T = products + 2 * t
    received = S_T + (z.each + 2) * s
    sums = received + 3 * n
    column, taken, size = sums + z.Tw, sums + 2 * z.Tw, sums + 3 * z.Tw
    E, E_T, dB = S_T + s, S_T + (z.each + 1) * s, received + n
    return _BackwardRoom(
        first, first + p, products, products + t, S_T, E, E_T, received, dB, dB + n, sums, column, taken, size
    )


@compiled
def sizes_from(a):  # type: ignore[no-untyped-def]
    """The first arguments of a task."""
    return Sizes(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12])


@compiled
def inputs_from(a, z, real):  # type: ignore[no-untyped-def]
    """The next ones."""
    x_row, row, tokens = a[13], a[14], z.batch * z.L
    keys, steps, states = tokens * row, tokens * z.heads, z.batch * z.heads * (z.chunks - 1) * z.N * z.P
    x, B, C = array(a[15], tokens * x_row, real), array(a[16], keys, real), array(a[17], keys, real)
    logs, dt, D = array(a[18], steps, real), array(a[19], steps, real), array(a[20], z.heads, real)
    return Inputs(x_row, row, x, B, C, logs, dt, D, array(a[21], states, real), a[22])


@compiled
def chunk_of(c, b, z):  # type: ignore[no-untyped-def]
    """The c-th chunk of sequence b."""
    steps = min(z.T, z.L - c * z.T)
    return Chunk(c, b * z.L + c * z.T, steps, -(-steps // ROWS) * ROWS)


@compiled
def place_of(index, z):  # type: ignore[no-untyped-def]
    """Where a task of this number is."""
    part, rest = index % z.parts, index // z.parts
    g, b = rest % z.groups, rest // z.groups
    in_group = z.heads // z.groups
    h = g * in_group + part * z.each
    return _Place(b, g, part, h, min(h + z.each, (g + 1) * in_group))
