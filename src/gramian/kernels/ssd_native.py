"""State space duality in compiled loops: a chunk at a time in the caches, and the states of some heads beside it.

A task takes some heads of a group in one sequence, chunk after chunk, with the products of
`gramian.kernels.ssd_chunked` for each. What heads of a group share is made once for all heads of a task, and what is
known to be zero is left out: half of a product within a chunk, and products with a state where there is none. The
backward pass is in `gramian.kernels.ssd_backward_native`.
"""

from __future__ import annotations

from gramian.kernels import ssd_blocks as blocks
from gramian.kernels.native import array, compiled, entry, run_with_workspace
from gramian.kernels.ssd_workspace import INPUTS, chunk_of, forward_room, inputs_from, place_of, sizes_from
from gramian.kernels.vector_memory import load, load_whole, store_whole
from gramian.kernels.vectors import lanes

__all__ = ["end", "forward_entry", "share", "start"]


@compiled
def share(s, chunk, g, z, w, m, real):  # type: ignore[no-untyped-def]
    """Keys and queries of a group in a chunk, and their products."""
    at, rows = chunk.first * s.row + g * z.N, chunk.rows
    blocks.read(s.B, at, s.row, chunk.steps, z.N, w, m.keys, rows, z.Nw, real)
    blocks.read(s.C, at, s.row, chunk.steps, z.N, w, m.queries, rows, z.Nw, real)
    blocks.transposed(w, m.keys, chunk.steps, z.Nw, m.keys_T, z.Tw, real)
    blocks.products_lower(w, m.products, rows, z.Tw, m.queries, z.Nw, m.keys_T, real)


@compiled
def start(states, k, w, to, z, real):  # type: ignore[no-untyped-def]
    """Fill a block with the k-th state, or with zeros if `states` is no address."""
    if states == 0:
        blocks.clear(w, to, z.Nw * z.Pw, real)
    else:
        blocks.read(array(states, 1 << 40, real), k * z.N * z.P, z.P, z.N, z.P, w, to, z.Nw, z.Pw, real)


@compiled
def end(states, k, w, at, z, real):  # type: ignore[no-untyped-def]
    """The reverse, if `states` is an address."""
    if states != 0:
        blocks.write(w, at, z.N, z.Pw, array(states, 1 << 40, real), k * z.N * z.P, z.P, z.P, real)


@compiled
def _weigh(s, chunk, h, begun, z, w, m, real):  # type: ignore[no-untyped-def]
    """Fill `values` with values times step sizes; and `out`, which holds what queries find in the state before the
    chunk if there is one (`begun`), with that times decays from the start, plus D times the values."""
    for t in range(chunk.steps):
        i, row = (chunk.first + t) * s.x_row + h * z.P, t * z.Pw
        dt, passed = s.dt[(chunk.first + t) * z.heads + h], w[m.from_start + t]
        for c in range(0, z.Pw, lanes(real)):
            v = load(s.x, i + c, i + z.P)
            out = v * s.D[h]
            if begun:
                out = out + load_whole(w, m.out + row + c) * passed
            store_whole(w, m.out + row + c, out)
            store_whole(w, m.values + row + c, v * dt)


@compiled
def _run_head(s, y, chunk, h, S, begun, goes_on, z, w, m, real):  # type: ignore[no-untyped-def]
    """Outputs of one head in a chunk, from the state before it if there is one (`begun`), and the state after it if
    somebody wants it (`goes_on`)."""
    i, count, rows = chunk.first * z.heads + h, chunk.steps, chunk.rows
    blocks.decays(s.logs, i, z.heads, count, z.Tw, w, m.decays, m.from_start, m.to_end, real)
    blocks.weigh_lower(w, m.decays, m.products, count, z.Tw, real)
    if begun:
        blocks.clear(w, m.out, rows * z.Pw, real)
        blocks.multiply(w, m.out, rows, z.Pw, m.queries, z.Nw, 1, S, z.N, real)
    _weigh(s, chunk, h, begun, z, w, m, real)
    blocks.multiply_lower(w, m.out, rows, z.Pw, m.decays, z.Tw, m.values, count, real)
    blocks.write(w, m.out, count, z.Pw, y, i * z.P, z.heads * z.P, z.P, real)
    if goes_on:
        blocks.scale_rows(w, m.values, count, z.Pw, m.to_end, real)
        blocks.scale(w, S, z.Nw * z.Pw, w[m.from_start + count - 1], real)
        blocks.multiply(w, S, z.Nw, z.Pw, m.keys, 1, z.Nw, m.values, count, real)


@compiled
def _forward(index, worker, args, real):  # type: ignore[no-untyped-def]
    z = sizes_from(args)
    p, m, s = place_of(index, z), forward_room(z), inputs_from(args, z, real)
    w = array(args[INPUTS - 1], (worker + 1, m.size), real)[worker]
    y, final = array(args[INPUTS], z.batch * z.L * z.heads * z.P, real), args[INPUTS + 1]
    for h in range(p.h, p.end):
        start(s.first, p.b * z.heads + h, w, m.S + (h - p.h) * z.Nw * z.Pw, z, real)
    for c in range(z.chunks):
        chunk, last = chunk_of(c, p.b, z), c == z.chunks - 1
        share(s, chunk, p.g, z, w, m, real)
        for h in range(p.h, p.end):
            S, k = m.S + (h - p.h) * z.Nw * z.Pw, p.b * z.heads + h
            _run_head(s, y, chunk, h, S, c > 0 or s.first != 0, not last or final != 0, z, w, m, real)
            if not last:
                blocks.write(w, S, z.N, z.Pw, s.between, (k * (z.chunks - 1) + c) * z.N * z.P, z.P, z.P, real)
    for h in range(p.h, p.end):
        end(final, p.b * z.heads + h, w, m.S + (h - p.h) * z.Nw * z.Pw, z, real)


@entry
def forward_entry(data):  # type: ignore[no-untyped-def]
    """What both passes have; y; the final states, or 0."""
    run_with_workspace(_forward, data)
