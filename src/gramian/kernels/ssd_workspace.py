"""How the compiled kernel of state space duality cuts its work, and where a task keeps its blocks."""

from __future__ import annotations

from typing import NamedTuple

from gramian.kernels.native import compiled

__all__ = ["Sizes", "backward_room", "forward_room", "place_of", "sizes_from"]


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
    size = sums + 2 * z.Tw
    E, E_T, dB = S_T + s, S_T + (z.each + 1) * s, received + n
    return _BackwardRoom(
        first, first + p, products, products + t, S_T, E, E_T, received, dB, dB + n, sums, sums + z.Tw, size
    )


@compiled
def sizes_from(a):  # type: ignore[no-untyped-def]
    """The first arguments of a task."""
    return Sizes(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12])


@compiled
def place_of(index, z):  # type: ignore[no-untyped-def]
    """Where a task of this number is."""
    part, rest = index % z.parts, index // z.parts
    g, b = rest % z.groups, rest // z.groups
    in_group = z.heads // z.groups
    h = g * in_group + part * z.each
    return _Place(b, g, part, h, min(h + z.each, (g + 1) * in_group))
