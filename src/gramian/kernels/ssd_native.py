"""State space duality in compiled loops: a chunk at a time in the caches, and the states of some heads beside it.

A task takes some heads of a group in one sequence, chunk after chunk, with the products of
`gramian.kernels.ssd_chunked` for each. What heads of a group share is made once for all heads of a task, and the half
of a product within a chunk that is zero is left out. The backward pass goes through the chunks in reverse, from the
states that the forward pass left before each.
"""

from __future__ import annotations

from gramian.kernels import ssd_blocks as blocks
from gramian.kernels.native import array, compiled, entry, run, run_with_workspace
from gramian.kernels.ssd_workspace import backward_room, forward_room, place_of, sizes_from
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, splat

__all__ = ["backward_entry", "fold_entry", "forward_entry"]


@compiled
def _share(B, C, at, row, count, rows, z, w, m, real):  # type: ignore[no-untyped-def]
    """Keys and queries of a chunk, and their products."""
    blocks.read(B, at, row, count, z.N, w, m.keys, rows, z.Nw, real)
    blocks.read(C, at, row, count, z.N, w, m.queries, rows, z.Nw, real)
    blocks.transposed(w, m.keys, count, z.Nw, m.keys_T, z.Tw, real)
    blocks.products_lower(w, m.products, rows, z.Tw, m.queries, z.Nw, m.keys_T, real)


@compiled
def _run_head(x, x_row, logs, dt, D, y, step, h, S, count, rows, z, w, m, real):  # type: ignore[no-untyped-def]
    """Outputs of one head in a chunk whose first step is `step`, and the state after it."""
    i = step * z.heads + h
    blocks.decays(logs, i, z.heads, count, z.Tw, w, m.decays, m.from_start, m.to_end, real)
    blocks.weigh_lower(w, m.decays, m.products, count, z.Tw, real)
    blocks.read(x, step * x_row + h * z.P, x_row, count, z.P, w, m.values, rows, z.Pw, real)
    blocks.clear(w, m.out, rows * z.Pw, real)
    blocks.multiply(w, m.out, rows, z.Pw, m.queries, z.Nw, 1, S, z.N, real)
    for t in range(count):
        row = t * z.Pw
        blocks.scale(w, m.out + row, z.Pw, w[m.from_start + t], real)
        blocks.add_scaled(w, m.out + row, m.values + row, z.Pw, D[h], real)
        blocks.scale(w, m.values + row, z.Pw, dt[i + t * z.heads], real)
    blocks.multiply_lower(w, m.out, rows, z.Pw, m.decays, z.Tw, m.values, count, real)
    blocks.write(w, m.out, count, z.Pw, y, i * z.P, z.heads * z.P, z.P, real)
    blocks.scale_rows(w, m.values, count, z.Pw, m.to_end, real)
    blocks.scale(w, S, z.Nw * z.Pw, w[m.from_start + count - 1], real)
    blocks.multiply(w, S, z.Nw, z.Pw, m.keys, 1, z.Nw, m.values, count, real)


@compiled
def _start(states, at, w, to, z, real):  # type: ignore[no-untyped-def]
    """Fill a block with a state, or with zeros if `states` is no address."""
    if states == 0:
        blocks.clear(w, to, z.Nw * z.Pw, real)
    else:
        blocks.read(array(states, 1 << 40, real), at, z.P, z.N, z.P, w, to, z.Nw, z.Pw, real)


@compiled
def _forward(index, worker, args, real):  # type: ignore[no-untyped-def]
    z = sizes_from(args)
    p, m, tokens = place_of(index, z), forward_room(z), z.batch * z.L
    x_row, row = args[13], args[14]
    x, B, C = (
        array(args[15], tokens * x_row, real),
        array(args[16], tokens * row, real),
        array(args[17], tokens * row, real),
    )
    y, logs, dt = (
        array(args[18], tokens * z.heads * z.P, real),
        array(args[19], tokens * z.heads, real),
        array(args[20], tokens * z.heads, real),
    )
    D = array(args[21], z.heads, real)
    before = array(args[22], z.batch * z.heads * (z.chunks + 1) * z.N * z.P, real)
    w = array(args[23], (worker + 1, m.size), real)[worker]
    state = z.N * z.P
    for h in range(p.h, p.end):
        _start(args[24], (p.b * z.heads + h) * state, w, m.S + (h - p.h) * z.Nw * z.Pw, z, real)
    for c in range(z.chunks + 1):
        count, step = min(z.T, z.L - c * z.T), p.b * z.L + c * z.T
        rows = -(-count // 8) * 8
        if c < z.chunks:
            _share(B, C, step * row + p.g * z.N, row, count, rows, z, w, m, real)
        for h in range(p.h, p.end):
            S, to = m.S + (h - p.h) * z.Nw * z.Pw, ((p.b * z.heads + h) * (z.chunks + 1) + c) * state
            blocks.write(w, S, z.N, z.Pw, before, to, z.P, z.P, real)
            if c < z.chunks:
                _run_head(x, x_row, logs, dt, D, y, step, h, S, count, rows, z, w, m, real)


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
def _sum_decays(d_logs, step, h, through, count, z, w, m, d, real):  # type: ignore[no-untyped-def]
    """The gradients of the logs: of pairs within the chunk, from its start to a step, from a step to its end, through.

    On entry, `column` holds what each step gives to the end, and `received` what it takes from the start, as the
    gradient of its query.
    """
    later = real
    for t in range(count - 1, -1, -1):
        later += blocks.dot(w, d.received + t * z.Nw, m.queries + t * z.Nw, z.Nw, real)
        w[d.sums + t] += later
    sent = through
    for t in range(count):
        d_logs[(step + t) * z.heads + h] = w[d.sums + t] + sent
        sent += w[d.column + t]


@compiled
def _read_back(x, x_row, dt, g, step, h, count, rows, z, w, m, d, real):  # type: ignore[no-untyped-def]
    """Values times step sizes, and gradients of the outputs of one head in a chunk; their scalar product, unscaled."""
    i, fed = step * z.heads + h, real
    blocks.read(x, step * x_row + h * z.P, x_row, count, z.P, w, m.values, rows, z.Pw, real)
    blocks.read(g, i * z.P, z.heads * z.P, count, z.P, w, d.dy, rows, z.Pw, real)
    for t in range(count):
        fed += blocks.dot(w, m.values + t * z.Pw, d.dy + t * z.Pw, z.Pw, real)
        blocks.scale(w, m.values + t * z.Pw, z.Pw, dt[i + t * z.heads], real)
    return fed


@compiled
def _write_back(x, x_row, dt, D, g_x, g_row, g_dt, step, h, count, rows, z, w, m, d, real):  # type: ignore[no-untyped-def]
    """From the gradients of values times step sizes, in `out`, those of values and of step sizes."""
    i, again = step * z.heads + h, d.values_T
    blocks.read(x, step * x_row + h * z.P, x_row, count, z.P, w, again, rows, z.Pw, real)
    for t in range(count):
        row, at = t * z.Pw, i + t * z.heads
        g_dt[at] = blocks.dot(w, m.out + row, again + row, z.Pw, real)
        blocks.scale(w, m.out + row, z.Pw, dt[at], real)
        blocks.add_scaled(w, m.out + row, d.dy + row, z.Pw, D[h], real)
    blocks.write(w, m.out, count, z.Pw, g_x, step * g_row + h * z.P, g_row, z.P, real)


@compiled
def _run_head_back(x, x_row, logs, dt, D, g, g_x, g_row, g_logs, g_dt, step, h, E, count, rows, z, w, m, d, real):  # type: ignore[no-untyped-def]
    """Gradients of one head in a chunk, from the state before it, `S`, and the gradient of the one after it; the
    gradient of D is returned."""
    state = z.Nw * z.Pw
    blocks.decays(logs, step * z.heads + h, z.heads, count, z.Tw, w, m.decays, m.from_start, m.to_end, real)
    fed = _read_back(x, x_row, dt, g, step, h, count, rows, z, w, m, d, real)
    blocks.transposed(w, m.values, count, z.Pw, d.values_T, z.Tw, real)
    blocks.products_lower(w, d.d_products, rows, z.Tw, d.dy, z.Pw, d.values_T, real)
    _pairs(count, z, w, m, d, real)
    across = w[m.from_start + count - 1]
    through = across * blocks.dot(w, m.S, E, state, real)
    blocks.clear(w, m.out, rows * z.Pw, real)
    blocks.multiply(w, m.out, rows, z.Pw, m.keys, z.Nw, 1, E, z.N, real)
    blocks.scale_rows(w, m.out, count, z.Pw, m.to_end, real)
    for t in range(count):
        w[d.column + t] = blocks.dot(w, m.out + t * z.Pw, m.values + t * z.Pw, z.Pw, real)
    blocks.multiply_lower_transposed(w, m.out, rows, z.Pw, m.decays, z.Tw, d.dy, count, real)
    _write_back(x, x_row, dt, D, g_x, g_row, g_dt, step, h, count, rows, z, w, m, d, real)

    blocks.scale_rows(w, m.values, count, z.Pw, m.to_end, real)
    blocks.multiply(w, d.dB, rows, z.Nw, m.values, z.Pw, 1, d.E_T, z.P, real)
    blocks.scale_rows(w, d.dy, count, z.Pw, m.from_start, real)
    blocks.clear(w, d.received, rows * z.Nw, real)
    blocks.multiply(w, d.received, rows, z.Nw, d.dy, z.Pw, 1, d.S_T, z.P, real)
    blocks.add(w, d.dC, d.received, rows * z.Nw, real)
    _sum_decays(g_logs, step, h, through, count, z, w, m, d, real)
    blocks.scale(w, E, state, across, real)
    blocks.multiply(w, E, z.Nw, z.Pw, m.queries, 1, z.Nw, d.dy, count, real)
    return fed


@compiled
def _backward(index, worker, args, real):  # type: ignore[no-untyped-def]
    z = sizes_from(args)
    p, m, d, tokens, state = place_of(index, z), forward_room(z), backward_room(z), z.batch * z.L, z.N * z.P
    x_row, row, g_x_row, g_row = args[13], args[14], args[15], args[16]
    x, B, C = (
        array(args[17], tokens * x_row, real),
        array(args[18], tokens * row, real),
        array(args[19], tokens * row, real),
    )
    g_x = array(args[20], tokens * g_x_row, real)
    g_B, g_C = array(args[21], z.parts * tokens * g_row, real), array(args[22], z.parts * tokens * g_row, real)
    g, logs, dt = (
        array(args[23], tokens * z.heads * z.P, real),
        array(args[24], tokens * z.heads, real),
        array(args[25], tokens * z.heads, real),
    )
    D, g_logs, g_dt = (
        array(args[26], z.heads, real),
        array(args[27], tokens * z.heads, real),
        array(args[28], tokens * z.heads, real),
    )
    g_D = array(args[29], z.batch * z.heads, real)
    before = array(args[30], z.batch * z.heads * (z.chunks + 1) * state, real)
    w = array(args[31], (worker + 1, d.size), real)[worker]
    for h in range(p.h, p.end):
        g_D[p.b * z.heads + h] = real
        _start(args[32], (p.b * z.heads + h) * state, w, d.E + (h - p.h) * z.Nw * z.Pw, z, real)
    for c in range(z.chunks - 1, -1, -1):
        count, step = min(z.T, z.L - c * z.T), p.b * z.L + c * z.T
        rows = -(-count // 8) * 8
        _share(B, C, step * row + p.g * z.N, row, count, rows, z, w, m, real)
        blocks.clear(w, d.dB, 2 * z.Tw * z.Nw, real)
        blocks.clear(w, d.d_all, rows * z.Tw, real)
        for h in range(p.h, p.end):
            E, first = d.E + (h - p.h) * z.Nw * z.Pw, ((p.b * z.heads + h) * (z.chunks + 1) + c) * state
            blocks.read(before, first, z.P, z.N, z.P, w, m.S, z.Nw, z.Pw, real)
            blocks.transposed(w, m.S, z.Nw, z.Pw, d.S_T, z.Nw, real)
            blocks.transposed(w, E, z.Nw, z.Pw, d.E_T, z.Nw, real)
            g_D[p.b * z.heads + h] += _run_head_back(
                x, x_row, logs, dt, D, g, g_x, g_x_row, g_logs, g_dt, step, h, E, count, rows, z, w, m, d, real
            )
        blocks.multiply_lower(w, d.dC, rows, z.Nw, d.d_all, z.Tw, m.keys, count, real)
        blocks.multiply_lower_transposed(w, d.dB, rows, z.Nw, d.d_all, z.Tw, m.queries, count, real)
        to = (p.part * tokens + step) * g_row + p.g * z.N
        blocks.write(w, d.dB, count, z.Nw, g_B, to, g_row, z.N, real)
        blocks.write(w, d.dC, count, z.Nw, g_C, to, g_row, z.N, real)
    for h in range(p.h, p.end):
        if args[33]:
            ends = array(args[33], z.batch * z.heads * state, real)
            E = d.E + (h - p.h) * z.Nw * z.Pw
            blocks.write(w, E, z.N, z.Pw, ends, (p.b * z.heads + h) * state, z.P, z.P, real)


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
def forward_entry(data):  # type: ignore[no-untyped-def]
    """Sizes; numbers from row to row of x, and of B and C; x, B, C; y, logs of decays, step sizes, D, states before
    chunks and after all, workspace; the first states, or 0."""
    run_with_workspace(_forward, data)


@entry
def backward_entry(data):  # type: ignore[no-untyped-def]
    """Sizes; numbers from row to row of x, of B and C, of dx, of dB and dC; x, B, C and their gradients (dB and dC for
    each part); dy, logs of decays, step sizes, D, their three gradients (that of D for each sequence), states before
    chunks, workspace; gradients of the final states, and of the first ones, each or 0."""
    run_with_workspace(_backward, data)


@entry
def fold_entry(data):  # type: ignore[no-untyped-def]
    """Sequences, steps, columns, parts, numbers from row to row of the sums; parts, and sums."""
    run(_fold, data)
