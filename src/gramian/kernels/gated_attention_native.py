"""Linear attention with a gate a key channel in compiled loops: a few steps at a time in the caches, and a state.

A task is one head of one sequence. Products with the state are those of `gramian.kernels.ssd_native`; between the steps
of a chunk, gates are multiplied up pair by pair, vector by vector of key channels. So chunks are short, and nothing is
divided: no gate is so strong that digits are lost.
"""

from __future__ import annotations

from typing import NamedTuple

from gramian.kernels import ssd_blocks as blocks
from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.ssd_workspace import place_of, sizes_from
from gramian.kernels.vector_math import exp
from gramian.kernels.vector_memory import load_whole, store_whole
from gramian.kernels.vectors import lanes, splat

__all__ = ["backward_entry", "forward_entry", "room"]


class _Room(NamedTuple):
    """Blocks of a workspace, and its size; the forward pass needs those before `S_T`.

    `from_start` holds products of the gates up to each step, itself included, `to_end` of those after it. `weights` is
    what each step takes from each.
    """

    keys: int
    queries: int
    gates: int
    from_start: int
    to_end: int
    scaled: int
    values: int
    out: int
    weights: int
    S: int
    S_T: int
    E: int
    E_T: int
    dy: int
    values_T: int
    d_weights: int
    dq: int
    dk: int
    d_gates: int
    passed: int
    size: int


@compiled
def room(z):  # type: ignore[no-untyped-def]
    """The layout of a workspace."""
    n, p, t, s = z.Tw * z.Nw, z.Tw * z.Pw, z.Tw * z.Tw, z.Nw * z.Pw
    values = 6 * n
    weights = values + 2 * p
    S = weights + t
    dy = S + 4 * s
    d_weights = dy + 2 * p
    dq = d_weights + t
    passed = dq + 3 * n
    E, values_T, size = S + 2 * s, dy + p, passed + n
    return _Room(
        0,
        n,
        2 * n,
        3 * n,
        4 * n,
        5 * n,
        values,
        values + p,
        weights,
        S,
        S + s,
        E,
        E + s,
        dy,
        values_T,
        d_weights,
        dq,
        dq + n,
        dq + 2 * n,
        passed,
        size,
    )


@compiled
def _read(v, gates, k, q, step, h, count, rows, z, w, m, real):  # type: ignore[no-untyped-def]
    """A chunk of values, keys, queries and gates, and the products of the gates."""
    W, at, stride = lanes(real), (step * z.heads + h) * z.N, z.heads * z.N
    blocks.read(v, (step * z.heads + h) * z.P, z.heads * z.P, count, z.P, w, m.values, rows, z.Pw, real)
    blocks.read(k, at, stride, count, z.N, w, m.keys, rows, z.Nw, real)
    blocks.read(q, at, stride, count, z.N, w, m.queries, rows, z.Nw, real)
    blocks.read(gates, at, stride, count, z.N, w, m.gates, rows, z.Nw, real)
    for c in range(0, z.Nw, W):
        product = splat(real) + 1.0
        for t in range(count):
            i = t * z.Nw + c
            gate = exp(load_whole(w, m.gates + i))
            store_whole(w, m.gates + i, gate)
            product = product * gate
            store_whole(w, m.from_start + i, product)
        product = splat(real) + 1.0
        for t in range(count - 1, -1, -1):
            i = t * z.Nw + c
            store_whole(w, m.to_end + i, product)
            product = product * load_whole(w, m.gates + i)


@compiled
def _weigh(count, rows, z, w, m, real):  # type: ignore[no-untyped-def]
    """The lower block of weights: keys go through the gates, step by step, and meet the queries."""
    W = lanes(real)
    blocks.clear(w, m.weights, rows * z.Tw, real)
    for s in range(count):
        for c in range(0, z.Nw, W):
            store_whole(w, m.scaled + c, load_whole(w, m.keys + s * z.Nw + c))
        for t in range(s, count):
            if t > s:
                _times(w, m.scaled, m.gates + t * z.Nw, z.Nw, real)
            w[m.weights + t * z.Tw + s] = blocks.dot(w, m.scaled, m.queries + t * z.Nw, z.Nw, real)


@compiled
def _times(w, at, factors, size, real):  # type: ignore[no-untyped-def]
    for i in range(0, size, lanes(real)):
        store_whole(w, at + i, load_whole(w, at + i) * load_whole(w, factors + i))


@compiled
def _product(w, to, a, b, size, real):  # type: ignore[no-untyped-def]
    for i in range(0, size, lanes(real)):
        store_whole(w, to + i, load_whole(w, a + i) * load_whole(w, b + i))


@compiled
def _run(v, gates, k, q, y, step, h, count, z, w, m, real):  # type: ignore[no-untyped-def]
    """Outputs of a chunk, and the state after it."""
    rows = -(-count // 8) * 8
    _read(v, gates, k, q, step, h, count, rows, z, w, m, real)
    _weigh(count, rows, z, w, m, real)
    _product(w, m.scaled, m.queries, m.from_start, count * z.Nw, real)
    blocks.clear(w, m.out, rows * z.Pw, real)
    blocks.multiply(w, m.out, rows, z.Pw, m.scaled, z.Nw, 1, m.S, z.N, real)
    blocks.multiply_lower(w, m.out, rows, z.Pw, m.weights, z.Tw, m.values, count, real)
    blocks.write(w, m.out, count, z.Pw, y, (step * z.heads + h) * z.P, z.heads * z.P, z.P, real)
    _times(w, m.keys, m.to_end, count * z.Nw, real)
    blocks.scale_rows(w, m.S, z.N, z.Pw, m.from_start + (count - 1) * z.Nw, real)
    blocks.multiply(w, m.S, z.Nw, z.Pw, m.keys, 1, z.Nw, m.values, count, real)


@compiled
def _forward(index, args, real):  # type: ignore[no-untyped-def]
    z = sizes_from(args)
    p, m, values = place_of(index, z), room(z), z.batch * z.L * z.heads * z.P
    keys, state = z.batch * z.L * z.heads * z.N, z.N * z.P
    v, y, gates = array(args[13], values, real), array(args[14], values, real), array(args[15], keys, real)
    k, q = array(args[16], keys, real), array(args[17], keys, real)
    w = array(args[20], (z.batch * z.heads, m.S_T), real)[index]
    first = array(args[18], z.batch * z.heads * state, real)
    before = array(args[19], z.batch * z.heads * (z.chunks + 1) * state, real)
    blocks.read(first, index * state, z.P, z.N, z.P, w, m.S, z.Nw, z.Pw, real)
    for c in range(z.chunks + 1):
        blocks.write(w, m.S, z.N, z.Pw, before, (index * (z.chunks + 1) + c) * state, z.P, z.P, real)
        if c < z.chunks:
            count = min(z.T, z.L - c * z.T)
            _run(v, gates, k, q, y, p.b * z.L + c * z.T, p.h, count, z, w, m, real)


@compiled
def _pairs(count, z, w, m, real):  # type: ignore[no-untyped-def]
    """What pairs of steps within a chunk give to the gradients of queries, keys and gates."""
    W = lanes(real)
    for s in range(count):
        for c in range(s * z.Nw, s * z.Nw + z.Nw, W):
            key, gate, start = load_whole(w, m.keys + c), splat(real) + 1.0, m.passed + c - s * z.Nw
            for t in range(s, count):
                i = (t - s) * z.Nw
                if t > s:
                    gate = gate * load_whole(w, m.gates + c + i)
                store_whole(w, start + t * z.Nw, gate)
                d = key * gate * w[m.d_weights + t * z.Tw + s]
                store_whole(w, m.dq + c + i, load_whole(w, m.dq + c + i) + d)
            d_key = splat(real)
            for t in range(count - 1, s, -1):
                i = (t - s) * z.Nw
                passed = load_whole(w, start + t * z.Nw) * load_whole(w, m.queries + c + i)
                d_key = d_key + passed * w[m.d_weights + t * z.Tw + s]
                store_whole(w, m.d_gates + c + i, load_whole(w, m.d_gates + c + i) + d_key * key)
            d_key = d_key + load_whole(w, m.queries + c) * w[m.d_weights + s * z.Tw + s]
            store_whole(w, m.dk + c, load_whole(w, m.dk + c) + d_key)


@compiled
def _gate_gradients(count, z, w, m, real):  # type: ignore[no-untyped-def]
    """Gradients of the logs of the gates: from the start of the chunk to each step, from each to its end, through.

    On entry, `dq` and `dk` hold what comes from the states, and not yet from pairs within the chunk."""
    W, last = lanes(real), (count - 1) * z.Nw
    for n in range(0, z.Nw, W):
        later = splat(real)
        for t in range(count - 1, -1, -1):
            i = t * z.Nw + n
            later = later + load_whole(w, m.dq + i) * load_whole(w, m.queries + i)
            store_whole(w, m.d_gates + i, later)
        through = load_whole(w, m.passed + n) * load_whole(w, m.from_start + last + n)
        for t in range(count):
            i = t * z.Nw + n
            store_whole(w, m.d_gates + i, load_whole(w, m.d_gates + i) + through)
            through = through + load_whole(w, m.dk + i) * load_whole(w, m.keys + i)


@compiled
def _run_back(v, gates, k, q, g, g_v, step, h, count, z, w, m, real):  # type: ignore[no-untyped-def]
    """Gradients of a chunk, from the state before it, `S`, and the gradient of the one after it, `E`."""
    rows, n = -(-count // 8) * 8, count * z.Nw
    at, stride = (step * z.heads + h) * z.P, z.heads * z.P
    _read(v, gates, k, q, step, h, count, rows, z, w, m, real)
    blocks.read(g, at, stride, count, z.P, w, m.dy, rows, z.Pw, real)
    _weigh(count, rows, z, w, m, real)
    blocks.transposed(w, m.values, count, z.Pw, m.values_T, z.Tw, real)
    blocks.products_lower(w, m.d_weights, rows, z.Tw, m.dy, z.Pw, m.values_T, real)
    _product(w, m.scaled, m.keys, m.to_end, n, real)
    blocks.clear(w, m.out, rows * z.Pw, real)
    blocks.multiply(w, m.out, rows, z.Pw, m.scaled, z.Nw, 1, m.E, z.N, real)
    blocks.multiply_lower_transposed(w, m.out, rows, z.Pw, m.weights, z.Tw, m.dy, count, real)
    blocks.write(w, m.out, count, z.Pw, g_v, at, stride, z.P, real)
    blocks.clear(w, m.dq, 2 * z.Tw * z.Nw, real)
    blocks.multiply(w, m.dq, rows, z.Nw, m.dy, z.Pw, 1, m.S_T, z.P, real)
    blocks.multiply(w, m.dk, rows, z.Nw, m.values, z.Pw, 1, m.E_T, z.P, real)
    _times(w, m.dq, m.from_start, n, real)
    _times(w, m.dk, m.to_end, n, real)
    for i in range(z.Nw):
        w[m.passed + i] = blocks.dot(w, m.S + i * z.Pw, m.E + i * z.Pw, z.Pw, real)
    _gate_gradients(count, z, w, m, real)
    _pairs(count, z, w, m, real)
    _product(w, m.scaled, m.queries, m.from_start, n, real)
    blocks.scale_rows(w, m.E, z.N, z.Pw, m.from_start + (count - 1) * z.Nw, real)
    blocks.multiply(w, m.E, z.Nw, z.Pw, m.scaled, 1, z.Nw, m.dy, count, real)


@compiled
def _backward(index, args, real):  # type: ignore[no-untyped-def]
    z = sizes_from(args)
    p, m, values = place_of(index, z), room(z), z.batch * z.L * z.heads * z.P
    keys, state, stride = z.batch * z.L * z.heads * z.N, z.N * z.P, z.heads * z.N
    v, g, g_v = array(args[13], values, real), array(args[14], values, real), array(args[15], values, real)
    gates, k, q = array(args[16], keys, real), array(args[17], keys, real), array(args[18], keys, real)
    g_gates, g_k, g_q = array(args[19], keys, real), array(args[20], keys, real), array(args[21], keys, real)
    before = array(args[22], z.batch * z.heads * (z.chunks + 1) * state, real)
    ends, w = (
        array(args[23], z.batch * z.heads * state, real),
        array(args[24], (z.batch * z.heads, m.size), real)[index],
    )
    blocks.read(ends, index * state, z.P, z.N, z.P, w, m.E, z.Nw, z.Pw, real)
    for c in range(z.chunks - 1, -1, -1):
        count, step = min(z.T, z.L - c * z.T), p.b * z.L + c * z.T
        blocks.read(before, (index * (z.chunks + 1) + c) * state, z.P, z.N, z.P, w, m.S, z.Nw, z.Pw, real)
        blocks.transposed(w, m.S, z.Nw, z.Pw, m.S_T, z.Nw, real)
        blocks.transposed(w, m.E, z.Nw, z.Pw, m.E_T, z.Nw, real)
        _run_back(v, gates, k, q, g, g_v, step, p.h, count, z, w, m, real)
        at = (step * z.heads + p.h) * z.N
        blocks.write(w, m.d_gates, count, z.Nw, g_gates, at, stride, z.N, real)
        blocks.write(w, m.dk, count, z.Nw, g_k, at, stride, z.N, real)
        blocks.write(w, m.dq, count, z.Nw, g_q, at, stride, z.N, real)
    blocks.write(w, m.E, z.N, z.Pw, ends, index * state, z.P, z.P, real)


@entry
def forward_entry(data):  # type: ignore[no-untyped-def]
    """Sizes, then v, y, logs of gates, k, q, first states, states before chunks and after all, workspace."""
    run(_forward, data)


@entry
def backward_entry(data):  # type: ignore[no-untyped-def]
    """Sizes, then v, dy, dv, logs of gates, k, q, the gradients of these three, states before chunks, gradients of the
    final states that become those of the first ones, workspace."""
    run(_backward, data)
