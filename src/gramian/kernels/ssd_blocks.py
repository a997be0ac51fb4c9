"""What the compiled kernels for matrix states do with blocks of time: copy, scale, transpose, multiply, and decay.

All memory of a task is one flat array, its *workspace* ``w``, and a *block* a place in it: a matrix whose rows are
whole vectors, mostly a step a row, with zeros beyond the columns that there are. Rows beyond the steps there are may
hold anything: whatever sums over steps stops before them. A *lower* block is known on and below its diagonal, up to
whole vectors and eight rows, where it is zero.
"""

from __future__ import annotations

from gramian.kernels.native import compiled
from gramian.kernels.tiles import ROWS, multiply_add, stand_alone
from gramian.kernels.transposition import transpose
from gramian.kernels.vector_math import exp
from gramian.kernels.vector_memory import load, load_whole, store, store_whole
from gramian.kernels.vectors import indices, lanes, splat, total, where

__all__ = [
    "add",
    "add_lower",
    "add_scaled",
    "clear",
    "decays",
    "dot",
    "multiply",
    "multiply_lower",
    "multiply_lower_transposed",
    "pair_sums",
    "products_lower",
    "read",
    "scale",
    "scale_rows",
    "transposed",
    "weigh_lower",
    "write",
]


@compiled
def clear(w, at, size, real):  # type: ignore[no-untyped-def]
    """Zeros."""
    for i in range(at, at + size, lanes(real)):
        store_whole(w, i, splat(real))


@compiled
def read(source, first, stride, count, columns, w, at, rows, width, real):  # type: ignore[no-untyped-def]
    """Fill `rows` rows of a block, of which `count` are in memory, the first at ``source[first]``."""
    stand_alone()
    for r in range(rows):
        i = first + r * stride
        end = i + columns if r < count else i
        for c in range(0, width, lanes(real)):
            store_whole(w, at + r * width + c, load(source, i + c, end))


@compiled
def write(w, at, count, width, target, first, stride, columns, real):  # type: ignore[no-untyped-def]
    """The reverse of `read`."""
    stand_alone()
    for r in range(count):
        i = first + r * stride
        for c in range(0, width, lanes(real)):
            store(target, i + c, i + columns, load_whole(w, at + r * width + c))


@compiled
def transposed(w, at, count, width, to, t_width, real):  # type: ignore[no-untyped-def]
    """The transpose of `count` rows, as `width` rows of `t_width`."""
    stand_alone()
    W = lanes(real)
    for r in range(0, t_width, W):
        for c in range(0, width, W):
            transpose(w, at + r * width + c, width, count - r, W, w, to + c * t_width + r, t_width, W)


@compiled
def scale(w, at, size, factor, real):  # type: ignore[no-untyped-def]
    """All numbers times one."""
    for i in range(at, at + size, lanes(real)):
        store_whole(w, i, load_whole(w, i) * factor)


@compiled
def scale_rows(w, at, count, width, factors, real):  # type: ignore[no-untyped-def]
    """Every row times its factor."""
    for r in range(count):
        scale(w, at + r * width, width, w[factors + r], real)


@compiled
def add(w, at, other, size, real):  # type: ignore[no-untyped-def]
    """Add one block to another."""
    for i in range(0, size, lanes(real)):
        store_whole(w, at + i, load_whole(w, at + i) + load_whole(w, other + i))


@compiled
def add_scaled(w, at, other, size, factor, real):  # type: ignore[no-untyped-def]
    """Add a number of times another block."""
    for i in range(0, size, lanes(real)):
        store_whole(w, at + i, load_whole(w, at + i) + load_whole(w, other + i) * factor)


@compiled
def dot(w, a, b, size, real):  # type: ignore[no-untyped-def]
    """The scalar product of two rows."""
    s = splat(real)
    for c in range(0, size, lanes(real)):
        s = s + load_whole(w, a + c) * load_whole(w, b + c)
    return total(s)


@compiled
def multiply(w, out, rows, width, a, a_row, a_step, x, steps, real):  # type: ignore[no-untyped-def]
    """``out += a x``: `a` with any strides, `x` as wide as `out`."""
    stand_alone()
    for r in range(0, rows, ROWS):
        multiply_add(w, out + r * width, width, w, a + r * a_row, a_row, a_step, w, x, width, steps, width, real)


@compiled
def multiply_lower(w, out, rows, width, a, a_width, x, steps, real):  # type: ignore[no-untyped-def]
    """``out += a x`` for a lower block `a`."""
    stand_alone()
    for r in range(0, rows, ROWS):
        until = min(r + ROWS, steps)
        multiply_add(w, out + r * width, width, w, a + r * a_width, a_width, 1, w, x, width, until, width, real)


@compiled
def multiply_lower_transposed(w, out, rows, width, a, a_width, x, steps, real):  # type: ignore[no-untyped-def]
    """``out += a^T x`` for a lower block `a`."""
    stand_alone()
    for r in range(0, rows, ROWS):
        i = a + r * a_width + r
        multiply_add(w, out + r * width, width, w, i, 1, a_width, w, x + r * width, width, steps - r, width, real)


@compiled
def products_lower(w, out, rows, width, a, a_width, x, real):  # type: ignore[no-untyped-def]
    """``out = a x``, as far as a lower block reaches; it is not zero above the diagonal yet."""
    stand_alone()
    W = lanes(real)
    for r in range(0, rows, ROWS):
        wide = min(-(-(r + ROWS) // W) * W, width)
        for k in range(r, r + ROWS):
            clear(w, out + k * width, wide, real)
        multiply_add(w, out + r * width, width, w, a + r * a_width, a_width, 1, w, x, width, a_width, wide, real)


@compiled
def weigh_lower(w, at, weights, count, width, real):  # type: ignore[no-untyped-def]
    """Multiply a lower block with another one, number by number."""
    stand_alone()
    W = lanes(real)
    for t in range(count):
        for i in range(t * width, t * width + t // W * W + W, W):
            store_whole(w, at + i, load_whole(w, at + i) * load_whole(w, weights + i))


@compiled
def add_lower(w, at, other, count, width, real):  # type: ignore[no-untyped-def]
    """Add one lower block to another."""
    stand_alone()
    W = lanes(real)
    for t in range(count):
        for i in range(t * width, t * width + t // W * W + W, W):
            store_whole(w, at + i, load_whole(w, at + i) + load_whole(w, other + i))


@compiled
def decays(logs, first, stride, count, width, w, at, from_start, to_end, real):  # type: ignore[no-untyped-def]
    """The lower block ``exp(logs[s + 1] + ... + logs[t])`` of row t and column s.

    `from_start` gets the products of the decays up to each step, itself included, and `to_end` those after it. All are
    products: none is a quotient, which would lose digits, or overflow.
    """
    stand_alone()
    W = lanes(real)
    for t in range(width):
        w[to_end + t] = logs[first + t * stride] if t < count else real
    for c in range(0, width, W):
        store_whole(w, from_start + c, exp(load_whole(w, to_end + c)))
        store_whole(w, to_end + c, splat(real))
    for t in range(count):
        for c in range(0, width, W):
            k, decay = indices(splat(real)), w[from_start + t]
            row = where(k < t - c, load_whole(w, to_end + c) * decay, splat(real))
            row = where(k < t - c, row, where(k > t - c, row, row + 1.0))
            store_whole(w, to_end + c, row)
            store_whole(w, at + t * width + c, row)
    for t in range(1, count):
        w[from_start + t] *= w[from_start + t - 1]


@compiled
def pair_sums(w, pairs, count, width, sums, column, real):  # type: ignore[no-untyped-def]
    """``sums[u] += pairs[t, s]`` over all ``s < u <= t`` of a lower block; `column` is room for a row."""
    stand_alone()
    W = lanes(real)
    clear(w, column, width, real)
    for u in range(count - 1, 0, -1):
        s = splat(real)
        for c in range(0, u, W):
            below = load_whole(w, column + c) + load_whole(w, pairs + u * width + c)
            store_whole(w, column + c, below)
            s = s + where(indices(below) < u - c, below, splat(real))
        w[sums + u] += total(s)
