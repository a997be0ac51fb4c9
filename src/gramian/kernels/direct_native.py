"""The whole layer in compiled loops: sequences in the lanes of a vector, states in the first cache, nothing stored.

A task takes as many sequences as a vector has lanes, and goes through time in blocks. Within a block, two states at a
time (four rows: re, im, re, im) are driven, stepped and read out, by three small products that keep their 16
coefficients in registers::

    project     rows[r, t]   = sum_h  coefficient[r, h] panel[t, h]      B u, and C* dy
    spread      panel[t, h] += sum_r  coefficient[r, h] rows[r, t]       C x, and B* w
    correlate   sums[r, h]  += sum_t  rows[r, t] panel[t, h]             gradients of B and C

A *panel* holds a block of a sequence a lane, ``(T, H)`` vectors; channels are padded to a multiple of four and states
to an even number, with zeros. The backward pass goes through the blocks in reverse, from the states that the forward
pass left at their boundaries.
"""

from __future__ import annotations

from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.transposition import transpose
from gramian.kernels.vector_memory import load_whole, store_whole
from gramian.kernels.vectors import lanes, splat

__all__ = ["BLOCK", "backward_entry", "forward_entry"]

BLOCK = 16  # time steps


@compiled
def _fill(panel, u, b, count, t, T, L, H, padded, real):  # type: ignore[no-untyped-def]
    """A block of sequences ``b ... b + count - 1`` from step t on, as a panel."""
    W = lanes(real)
    if padded == H:
        for i in range(0, T * H, W):
            transpose(u, (b * L + t) * H + i, L * H, count, T * H - i, panel, i * W, W, W)
    else:
        for s in range(T):
            for h in range(0, padded, W):
                transpose(u, (b * L + t + s) * H + h, L * H, count, H - h, panel, (s * padded + h) * W, W, W)


@compiled
def _empty(panel, u, b, count, t, T, L, H, padded, real):  # type: ignore[no-untyped-def]
    """The reverse of `_fill`: write a panel to sequences ``b ... b + count - 1`` from step t on."""
    W = lanes(real)
    if padded == H:
        for i in range(0, T * H, W):
            transpose(panel, i * W, W, min(T * H - i, W), count, u, (b * L + t) * H + i, L * H, min(T * H - i, W))
    else:
        for s in range(T):
            for h in range(0, H, W):
                at = (b * L + t + s) * H + h
                transpose(panel, (s * padded + h) * W, W, min(H - h, W), count, u, at, L * H, min(H - h, W))


@compiled
def _project(a, panel, rows, T, H, real):  # type: ignore[no-untyped-def]
    W = lanes(real)
    for i in range(4 * T):
        store_whole(rows, i * W, splat(real))
    for h in range(0, H, 4):
        a00, a01, a02, a03 = splat(a[h]), splat(a[h + 1]), splat(a[h + 2]), splat(a[h + 3])
        i = H + h
        a10, a11, a12, a13 = splat(a[i]), splat(a[i + 1]), splat(a[i + 2]), splat(a[i + 3])
        i = 2 * H + h
        a20, a21, a22, a23 = splat(a[i]), splat(a[i + 1]), splat(a[i + 2]), splat(a[i + 3])
        i = 3 * H + h
        a30, a31, a32, a33 = splat(a[i]), splat(a[i + 1]), splat(a[i + 2]), splat(a[i + 3])
        for t in range(T):
            p = (t * H + h) * W
            u0, u1 = load_whole(panel, p), load_whole(panel, p + W)
            u2, u3 = load_whole(panel, p + 2 * W), load_whole(panel, p + 3 * W)
            r0, r1, r2, r3 = t * W, (T + t) * W, (2 * T + t) * W, (3 * T + t) * W
            store_whole(rows, r0, load_whole(rows, r0) + a00 * u0 + a01 * u1 + a02 * u2 + a03 * u3)
            store_whole(rows, r1, load_whole(rows, r1) + a10 * u0 + a11 * u1 + a12 * u2 + a13 * u3)
            store_whole(rows, r2, load_whole(rows, r2) + a20 * u0 + a21 * u1 + a22 * u2 + a23 * u3)
            store_whole(rows, r3, load_whole(rows, r3) + a30 * u0 + a31 * u1 + a32 * u2 + a33 * u3)


@compiled
def _spread(a, rows, panel, T, H, real):  # type: ignore[no-untyped-def]
    W = lanes(real)
    for h in range(0, H, 4):
        a00, a01, a02, a03 = splat(a[h]), splat(a[h + 1]), splat(a[h + 2]), splat(a[h + 3])
        i = H + h
        a10, a11, a12, a13 = splat(a[i]), splat(a[i + 1]), splat(a[i + 2]), splat(a[i + 3])
        i = 2 * H + h
        a20, a21, a22, a23 = splat(a[i]), splat(a[i + 1]), splat(a[i + 2]), splat(a[i + 3])
        i = 3 * H + h
        a30, a31, a32, a33 = splat(a[i]), splat(a[i + 1]), splat(a[i + 2]), splat(a[i + 3])
        for t in range(T):
            p = (t * H + h) * W
            x0, x1 = load_whole(rows, t * W), load_whole(rows, (T + t) * W)
            x2, x3 = load_whole(rows, (2 * T + t) * W), load_whole(rows, (3 * T + t) * W)
            store_whole(panel, p, load_whole(panel, p) + a00 * x0 + a10 * x1 + a20 * x2 + a30 * x3)
            p += W
            store_whole(panel, p, load_whole(panel, p) + a01 * x0 + a11 * x1 + a21 * x2 + a31 * x3)
            p += W
            store_whole(panel, p, load_whole(panel, p) + a02 * x0 + a12 * x1 + a22 * x2 + a32 * x3)
            p += W
            store_whole(panel, p, load_whole(panel, p) + a03 * x0 + a13 * x1 + a23 * x2 + a33 * x3)


@compiled
def _correlate(rows, panel, sums, T, H, real):  # type: ignore[no-untyped-def]
    W, zero = lanes(real), splat(real)
    for h in range(0, H, 4):
        s00, s01, s02, s03 = zero, zero, zero, zero
        s10, s11, s12, s13 = zero, zero, zero, zero
        s20, s21, s22, s23 = zero, zero, zero, zero
        s30, s31, s32, s33 = zero, zero, zero, zero
        for t in range(T):
            p = (t * H + h) * W
            u0, u1 = load_whole(panel, p), load_whole(panel, p + W)
            u2, u3 = load_whole(panel, p + 2 * W), load_whole(panel, p + 3 * W)
            x0, x1 = load_whole(rows, t * W), load_whole(rows, (T + t) * W)
            x2, x3 = load_whole(rows, (2 * T + t) * W), load_whole(rows, (3 * T + t) * W)
            s00, s01, s02, s03 = s00 + x0 * u0, s01 + x0 * u1, s02 + x0 * u2, s03 + x0 * u3
            s10, s11, s12, s13 = s10 + x1 * u0, s11 + x1 * u1, s12 + x1 * u2, s13 + x1 * u3
            s20, s21, s22, s23 = s20 + x2 * u0, s21 + x2 * u1, s22 + x2 * u2, s23 + x2 * u3
            s30, s31, s32, s33 = s30 + x3 * u0, s31 + x3 * u1, s32 + x3 * u2, s33 + x3 * u3
        _add_four(sums, h * W, s00, s01, s02, s03, real)
        _add_four(sums, (H + h) * W, s10, s11, s12, s13, real)
        _add_four(sums, (2 * H + h) * W, s20, s21, s22, s23, real)
        _add_four(sums, (3 * H + h) * W, s30, s31, s32, s33, real)


@compiled
def _add_four(sums, at, s0, s1, s2, s3, real):  # type: ignore[no-untyped-def]
    W = lanes(real)
    store_whole(sums, at, load_whole(sums, at) + s0)
    store_whole(sums, at + W, load_whole(sums, at + W) + s1)
    store_whole(sums, at + 2 * W, load_whole(sums, at + 2 * W) + s2)
    store_whole(sums, at + 3 * W, load_whole(sums, at + 3 * W) + s3)


@compiled
def _advance(rows, poles, state, T, real):  # type: ignore[no-untyped-def]
    """Two states through a block: `rows` hold what drives them and then the states, `state` the last ones."""
    W = lanes(real)
    a_re, a_im, b_re, b_im = splat(poles[0]), splat(poles[1]), splat(poles[2]), splat(poles[3])
    x0, x1, x2, x3 = load_whole(state, 0), load_whole(state, W), load_whole(state, 2 * W), load_whole(state, 3 * W)
    for t in range(T):
        r0, r1, r2, r3 = t * W, (T + t) * W, (2 * T + t) * W, (3 * T + t) * W
        y0, y1 = load_whole(rows, r0) + a_re * x0 - a_im * x1, load_whole(rows, r1) + a_re * x1 + a_im * x0
        y2, y3 = load_whole(rows, r2) + b_re * x2 - b_im * x3, load_whole(rows, r3) + b_re * x3 + b_im * x2
        x0, x1, x2, x3 = y0, y1, y2, y3
        store_whole(rows, r0, x0)
        store_whole(rows, r1, x1)
        store_whole(rows, r2, x2)
        store_whole(rows, r3, x3)
    store_whole(state, 0, x0)
    store_whole(state, W, x1)
    store_whole(state, 2 * W, x2)
    store_whole(state, 3 * W, x3)


@compiled
def _retreat(w, x, before, poles, adjoint, g_poles, T, real):  # type: ignore[no-untyped-def]
    """Two states back through a block: `w` holds what the outputs say and then the adjoints.

    `adjoint` is ``conj(pole) w`` of the step after; `x` are the states, `before` those ahead of the block.
    """
    W = lanes(real)
    for k in range(0, 4, 2):
        re, im = splat(poles[k]), splat(poles[k + 1])
        c_re, c_im = load_whole(adjoint, k * W), load_whole(adjoint, (k + 1) * W)
        g_re, g_im = load_whole(g_poles, k * W), load_whole(g_poles, (k + 1) * W)
        for back in range(T):
            t = T - 1 - back
            i, j = (k * T + t) * W, ((k + 1) * T + t) * W
            w_re, w_im = load_whole(w, i) + c_re, load_whole(w, j) + c_im
            store_whole(w, i, w_re)
            store_whole(w, j, w_im)
            c_re, c_im = re * w_re + im * w_im, re * w_im - im * w_re
            if t > 0:
                x_re, x_im = load_whole(x, i - W), load_whole(x, j - W)
            else:
                x_re, x_im = load_whole(before, k * W), load_whole(before, (k + 1) * W)
            g_re, g_im = g_re + x_re * w_re + x_im * w_im, g_im + x_re * w_im - x_im * w_re
        store_whole(adjoint, k * W, c_re)
        store_whole(adjoint, (k + 1) * W, c_im)
        store_whole(g_poles, k * W, g_re)
        store_whole(g_poles, (k + 1) * W, g_im)


@compiled
def _scaled(panel, D, out, T, H, real):  # type: ignore[no-untyped-def]
    W = lanes(real)
    for t in range(T):
        for h in range(H):
            store_whole(out, (t * H + h) * W, splat(D[h]) * load_whole(panel, (t * H + h) * W))


@compiled
def _feed_through(panel, g, sums, T, H, real):  # type: ignore[no-untyped-def]
    """Adds ``sum_t panel[t, h] g[t, h]``, the gradient of D."""
    W = lanes(real)
    for h in range(H):
        s = load_whole(sums, h * W)
        for t in range(T):
            i = (t * H + h) * W
            s = s + load_whole(panel, i) * load_whole(g, i)
        store_whole(sums, h * W, s)


@compiled
def _forward(index, args, real):  # type: ignore[no-untyped-def]
    """One tile of sequences; see `gramian.kernels.direct` for the tensors."""
    batch, L, H, padded, R, blocks = args[0], args[1], args[2], args[3], args[4], args[5]
    W = lanes(real)
    tiles, b = (batch + W - 1) // W, index * W
    u, y = array(args[6], batch * L * H, real), array(args[7], batch * L * H, real)
    poles, B, C = array(args[8], R, real), array(args[9], R * padded, real), array(args[10], R * padded, real)
    D = array(args[11], padded, real)
    boundary = array(args[12], (tiles, blocks + 1, R * W), real)[index]
    panels = array(args[13], (tiles, 2, BLOCK * padded * W), real)[index]
    rows = array(args[14], (tiles, 4 * BLOCK * W), real)[index]
    inputs, outputs = panels[0], panels[1]
    for k in range(blocks):
        t = k * BLOCK
        T = min(BLOCK, L - t)
        _fill(inputs, u, b, batch - b, t, T, L, H, padded, real)
        _scaled(inputs, D, outputs, T, padded, real)
        for i in range(R * W):  # an assignment of slices would take a second to compile
            boundary[k + 1, i] = boundary[k, i]
        for r in range(0, R, 4):
            _project(B[r * padded :], inputs, rows, T, padded, real)
            _advance(rows, poles[r:], boundary[k + 1][r * W :], T, real)
            _spread(C[r * padded :], rows, outputs, T, padded, real)
        _empty(outputs, y, b, batch - b, t, T, L, H, padded, real)


@entry
def forward_entry(data):  # type: ignore[no-untyped-def]
    run(_forward, data)


@compiled
def _backward(index, args, real):  # type: ignore[no-untyped-def]
    batch, L, H, padded, R, blocks = args[0], args[1], args[2], args[3], args[4], args[5]
    W = lanes(real)
    tiles, b, size = (batch + W - 1) // W, index * W, padded * W
    u, g, g_u = (
        array(args[6], batch * L * H, real),
        array(args[7], batch * L * H, real),
        array(args[8], batch * L * H, real),
    )
    poles, B, C = array(args[9], R, real), array(args[10], R * padded, real), array(args[11], R * padded, real)
    D = array(args[12], padded, real)
    boundary = array(args[13], (tiles, blocks + 1, R * W), real)[index]
    adjoint = array(args[14], (tiles, R * W), real)[index]
    panels = array(args[15], (tiles, 3, BLOCK * size), real)[index]
    rows = array(args[16], (tiles, 3, 4 * BLOCK * W), real)[index]
    sums = array(args[17], (tiles, (2 * R + 1) * size + R * W), real)[index]
    inputs, g_outputs, g_inputs, x, w, start = panels[0], panels[1], panels[2], rows[0], rows[1], rows[2][: 4 * W]
    g_B, g_C, g_D, g_poles = sums, sums[R * size :], sums[2 * R * size :], sums[(2 * R + 1) * size :]
    for back in range(blocks):
        k = blocks - 1 - back
        t = k * BLOCK
        T = min(BLOCK, L - t)
        _fill(inputs, u, b, batch - b, t, T, L, H, padded, real)
        _fill(g_outputs, g, b, batch - b, t, T, L, H, padded, real)
        _scaled(g_outputs, D, g_inputs, T, padded, real)
        _feed_through(inputs, g_outputs, g_D, T, padded, real)
        for r in range(0, R, 4):
            _project(B[r * padded :], inputs, x, T, padded, real)
            for i in range(4 * W):
                start[i] = boundary[k, r * W + i]
            _advance(x, poles[r:], start, T, real)
            _project(C[r * padded :], g_outputs, w, T, padded, real)
            _retreat(w, x, boundary[k][r * W :], poles[r:], adjoint[r * W :], g_poles[r * W :], T, real)
            _spread(B[r * padded :], w, g_inputs, T, padded, real)
            _correlate(w, inputs, g_B[r * size :], T, padded, real)
            _correlate(x, g_outputs, g_C[r * size :], T, padded, real)
        _empty(g_inputs, g_u, b, batch - b, t, T, L, H, padded, real)


@entry
def backward_entry(data):  # type: ignore[no-untyped-def]
    run(_backward, data)
