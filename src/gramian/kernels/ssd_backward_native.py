"""The backward pass of `gramian.kernels.ssd_native`: through the chunks in reverse, from the states between them."""

from __future__ import annotations

from typing import Any, NamedTuple

from gramian.kernels import ssd_blocks as blocks
from gramian.kernels.native import array, compiled, entry, run, run_with_workspace
from gramian.kernels.ssd_native import end, share, start
from gramian.kernels.ssd_workspace import (
    INPUTS,
    backward_room,
    chunk_of,
    forward_room,
    inputs_from,
    place_of,
    sizes_from,
)
from gramian.kernels.vector_memory import load, load_whole, store, store_whole
from gramian.kernels.vectors import lanes, splat, total

__all__ = ["backward_entry", "fold_entry"]


class _Gradients(NamedTuple):
    """That of y, and those that are written: for x, with `x_row` numbers from step to step; for B and C, part after
    part, with `row`; for logs, step sizes, and D in each sequence. `last` is the address of those of the final states,
    and `first` the place for those of the first ones; each may be 0."""

    x_row: int
    row: int
    y: Any
    x: Any
    B: Any
    C: Any
    logs: Any
    dt: Any
    D: Any
    last: int
    first: int


class _Ends(NamedTuple):
    """Of a chunk: there is a state before it, and a gradient of the one after it; that of the one before is wanted.
    A sequence is few chunks, so products that need not be made count."""

    begun: bool
    goes_on: bool
    wanted: bool


@compiled
def _gradients(args, z, real):  # type: ignore[no-untyped-def]
    x_row, row, tokens = args[INPUTS], args[INPUTS + 1], z.batch * z.L
    y = array(args[INPUTS + 2], tokens * z.heads * z.P, real)
    x, keys, steps = array(args[INPUTS + 3], tokens * x_row, real), z.parts * tokens * row, tokens * z.heads
    B, C = array(args[INPUTS + 4], keys, real), array(args[INPUTS + 5], keys, real)
    logs, dt = array(args[INPUTS + 6], steps, real), array(args[INPUTS + 7], steps, real)
    D = array(args[INPUTS + 8], z.batch * z.heads, real)
    return _Gradients(x_row, row, y, x, B, C, logs, dt, D, args[INPUTS + 9], args[INPUTS + 10])


@compiled
def _pairs(count, z, w, m, d, real):  # type: ignore[no-untyped-def]
    """What the products within a chunk give to the gradients: of decays, of keys and queries, and weights of dy."""
    blocks.weigh_lower(w, d.d_products, m.decays, count, z.Tw, real)
    blocks.add_lower(w, d.d_all, d.d_products, count, z.Tw, real)
    blocks.weigh_lower(w, d.d_products, m.products, count, z.Tw, real)
    blocks.weigh_lower(w, m.decays, m.products, count, z.Tw, real)
    blocks.clear(w, d.sums, z.Tw, real)
    blocks.pair_sums(w, d.d_products, count, z.Tw, d.sums, d.column, real)


@compiled
def _sum_decays(d_logs, h, through, begun, chunk, z, w, d, real):  # type: ignore[no-untyped-def]
    """The gradients of the logs: of pairs within the chunk, from its start to a step, from a step to its end, through.

    On entry, `column` holds what each step gives to the end, and `taken` what it takes from the start, if there was
    something before.
    """
    later = real
    for t in range(chunk.steps - 1, -1, -1):
        if begun:
            later += w[d.taken + t]
        w[d.sums + t] += later
    sent = through
    for t in range(chunk.steps):
        d_logs[(chunk.first + t) * z.heads + h] = w[d.sums + t] + sent
        sent += w[d.column + t]


@compiled
def _read_back(s, dy, chunk, h, z, w, m, d, real):  # type: ignore[no-untyped-def]
    """Values times step sizes, and gradients of the outputs of one head in a chunk; their scalar product, unscaled."""
    fed = splat(real)
    for t in range(chunk.steps):
        row, step = t * z.Pw, chunk.first + t
        i, j, dt = step * s.x_row + h * z.P, (step * z.heads + h) * z.P, s.dt[step * z.heads + h]
        for c in range(0, z.Pw, lanes(real)):
            v, g = load(s.x, i + c, i + z.P), load(dy, j + c, j + z.P)
            fed = fed + v * g
            store_whole(w, m.values + row + c, v * dt)
            store_whole(w, d.dy + row + c, g)
    return total(fed)


@compiled
def _write_back(s, grads, chunk, h, z, w, m, d, real):  # type: ignore[no-untyped-def]
    """From the gradients of values times step sizes, in `out`, those of values and of step sizes."""
    for t in range(chunk.steps):
        row, step, sums = t * z.Pw, chunk.first + t, splat(real)
        i, j, k = step * s.x_row + h * z.P, step * grads.x_row + h * z.P, step * z.heads + h
        for c in range(0, z.Pw, lanes(real)):
            g = load_whole(w, m.out + row + c)
            sums = sums + g * load(s.x, i + c, i + z.P)
            store(grads.x, j + c, j + z.P, g * s.dt[k] + load_whole(w, d.dy + row + c) * s.D[h])
        grads.dt[k] = total(sums)


@compiled
def _from_end(E, chunk, z, w, m, d, real):  # type: ignore[no-untyped-def]
    """What the gradient `E` of the state after a chunk gives to that of values times step sizes, in `out`; and in
    `column`, what each step gives to the end."""
    blocks.multiply(w, m.out, chunk.rows, z.Pw, m.keys, z.Nw, 1, E, z.N, real)
    for t in range(chunk.steps):
        sums, passed = splat(real), w[m.to_end + t]
        for i in range(t * z.Pw, t * z.Pw + z.Pw, lanes(real)):
            g = load_whole(w, m.out + i) * passed
            store_whole(w, m.out + i, g)
            sums = sums + g * load_whole(w, m.values + i)
        w[d.column + t] = total(sums)


@compiled
def _to_keys(E, chunk, z, w, m, d, real):  # type: ignore[no-untyped-def]
    """And what it gives to the gradient of keys. Values are weighed with decays from here on."""
    blocks.transposed(w, E, z.Nw, z.Pw, d.E_T, z.Nw, real)
    blocks.scale_rows(w, m.values, chunk.steps, z.Pw, m.to_end, real)
    blocks.multiply(w, d.dB, chunk.rows, z.Nw, m.values, z.Pw, 1, d.E_T, z.P, real)


@compiled
def _to_queries(chunk, z, w, m, d, real):  # type: ignore[no-untyped-def]
    """What the state before a chunk gives to the gradient of queries; and in `taken`, what each step takes from it."""
    blocks.transposed(w, m.S, z.Nw, z.Pw, d.S_T, z.Nw, real)
    blocks.clear(w, d.received, chunk.rows * z.Nw, real)
    blocks.multiply(w, d.received, chunk.rows, z.Nw, d.dy, z.Pw, 1, d.S_T, z.P, real)
    for t in range(chunk.steps):
        sums = splat(real)
        for i in range(t * z.Nw, t * z.Nw + z.Nw, lanes(real)):
            g = load_whole(w, d.received + i)
            store_whole(w, d.dC + i, load_whole(w, d.dC + i) + g)
            sums = sums + g * load_whole(w, m.queries + i)
        w[d.taken + t] = total(sums)


@compiled
def _run_head_back(s, grads, chunk, h, E, ends, z, w, m, d, real):  # type: ignore[no-untyped-def]
    """Gradients of one head in a chunk, from the state before it, `S`, and the gradient of the one after it; the
    gradient of D is returned."""
    count, rows, state, through = chunk.steps, chunk.rows, z.Nw * z.Pw, real
    blocks.decays(s.logs, chunk.first * z.heads + h, z.heads, count, z.Tw, w, m.decays, m.from_start, m.to_end, real)
    fed = _read_back(s, grads.y, chunk, h, z, w, m, d, real)
    blocks.transposed(w, m.values, count, z.Pw, d.values_T, z.Tw, real)
    blocks.products_lower(w, d.d_products, rows, z.Tw, d.dy, z.Pw, d.values_T, real)
    _pairs(count, z, w, m, d, real)
    across = w[m.from_start + count - 1]
    blocks.clear(w, m.out, rows * z.Pw, real)
    blocks.clear(w, d.column, z.Tw, real)
    if ends.goes_on:
        _from_end(E, chunk, z, w, m, d, real)
        if ends.begun:
            through = across * blocks.dot(w, m.S, E, state, real)
    blocks.multiply_lower_transposed(w, m.out, rows, z.Pw, m.decays, z.Tw, d.dy, count, real)
    _write_back(s, grads, chunk, h, z, w, m, d, real)
    if ends.goes_on:
        _to_keys(E, chunk, z, w, m, d, real)
    blocks.scale_rows(w, d.dy, count, z.Pw, m.from_start, real)
    if ends.begun:
        _to_queries(chunk, z, w, m, d, real)
    _sum_decays(grads.logs, h, through, ends.begun, chunk, z, w, d, real)
    if ends.wanted:
        blocks.scale(w, E, state, across, real)
        blocks.multiply(w, E, z.Nw, z.Pw, m.queries, 1, z.Nw, d.dy, count, real)
    return fed


@compiled
def _before(s, c, k, z, w, m, real):  # type: ignore[no-untyped-def]
    """The state of a head before chunk c."""
    if c == 0:
        start(s.first, k, w, m.S, z, real)
    else:
        blocks.read(s.between, (k * (z.chunks - 1) + c - 1) * z.N * z.P, z.P, z.N, z.P, w, m.S, z.Nw, z.Pw, real)


@compiled
def _run_chunk_back(s, grads, c, p, z, w, m, d, real):  # type: ignore[no-untyped-def]
    chunk = chunk_of(c, p.b, z)
    count, rows = chunk.steps, chunk.rows
    ends = _Ends(c > 0 or s.first != 0, c < z.chunks - 1 or grads.last != 0, c > 0 or grads.first != 0)
    share(s, chunk, p.g, z, w, m, real)
    blocks.clear(w, d.dB, 2 * z.Tw * z.Nw, real)
    blocks.clear(w, d.d_all, rows * z.Tw, real)
    for h in range(p.h, p.end):
        E, k = d.E + (h - p.h) * z.Nw * z.Pw, p.b * z.heads + h
        _before(s, c, k, z, w, m, real)
        grads.D[k] += _run_head_back(s, grads, chunk, h, E, ends, z, w, m, d, real)
    blocks.multiply_lower(w, d.dC, rows, z.Nw, d.d_all, z.Tw, m.keys, count, real)
    blocks.multiply_lower_transposed(w, d.dB, rows, z.Nw, d.d_all, z.Tw, m.queries, count, real)
    to = (p.part * z.batch * z.L + chunk.first) * grads.row + p.g * z.N
    blocks.write(w, d.dB, count, z.Nw, grads.B, to, grads.row, z.N, real)
    blocks.write(w, d.dC, count, z.Nw, grads.C, to, grads.row, z.N, real)


@compiled
def _backward(index, worker, args, real):  # type: ignore[no-untyped-def]
    z = sizes_from(args)
    p, m, d, s, grads = (
        place_of(index, z),
        forward_room(z),
        backward_room(z),
        inputs_from(args, z, real),
        _gradients(args, z, real),
    )
    w = array(args[INPUTS - 1], (worker + 1, d.size), real)[worker]
    for h in range(p.h, p.end):
        grads.D[p.b * z.heads + h] = real
        start(grads.last, p.b * z.heads + h, w, d.E + (h - p.h) * z.Nw * z.Pw, z, real)
    for c in range(z.chunks - 1, -1, -1):
        _run_chunk_back(s, grads, c, p, z, w, m, d, real)
    for h in range(p.h, p.end):
        end(grads.first, p.b * z.heads + h, w, d.E + (h - p.h) * z.Nw * z.Pw, z, real)


@compiled
def _fold(index, args, real):  # type: ignore[no-untyped-def]
    """Sums over parts, of one sequence: from ``(parts, batch, L, columns)`` to rows some numbers apart."""
    batch, L, columns, parts, row = args[0], args[1], args[2], args[3], args[4]
    source, target = array(args[5], parts * batch * L * columns, real), array(args[6], batch * L * row, real)
    for t in range(index * L, index * L + L):
        for c in range(0, columns, lanes(real)):
            s = splat(real)
            for part in range(parts):
                i = (part * batch * L + t) * columns
                s = s + load(source, i + c, i + columns)
            store(target, t * row + c, t * row + columns, s)


@entry
def backward_entry(data):  # type: ignore[no-untyped-def]
    """What both passes have; and what `_Gradients` are."""
    run_with_workspace(_backward, data)


@entry
def fold_entry(data):  # type: ignore[no-untyped-def]
    """Sequences, steps, columns, parts, numbers from row to row of the sums; parts, and sums."""
    run(_fold, data)
