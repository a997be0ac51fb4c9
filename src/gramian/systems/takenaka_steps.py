"""One step after the other: the Malmquist-Takenaka recurrence of `gramian.systems.takenaka` on a set of rows."""

from __future__ import annotations

import math

from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, splat, total
from gramian.systems.blaschke import blaschke, one_minus, sizes

__all__ = ["TABLE", "begin", "best", "factor_entry", "products_and_rest", "put", "step"]

TABLE = 6
"""Numbers a row of a step's table: ``|l| - 1``, ``|l|``, ``1 - |l|^2``, energy ``|g|^2 / (1 - |l|^2)``, ``1 - l``."""

_ROUNDING = 1e-15


@compiled
def _along(g, row, w, n, real):  # type: ignore[no-untyped-def]
    """``g_i w*``. A row is n real parts and n imaginary parts; `row` and `w` are where rows begin in `g`."""
    re, im = splat(real), splat(real)
    for h in range(0, n, lanes(real)):
        g_re, g_im = load(g, row + h, row + n), load(g, row + n + h, row + 2 * n)
        w_re, w_im = load(g, w + h, w + n), load(g, w + n + h, w + 2 * n)
        re = re + g_re * w_re + g_im * w_im
        im = im + g_im * w_re - g_re * w_im
    return complex(total(re), total(im))


@compiled
def _take_off(g, row, factor, w, n, real):  # type: ignore[no-untyped-def]
    """``g_i <- g_i - factor w``; the square of the length that is left."""
    f_re, f_im, square = splat(real + factor.real), splat(real + factor.imag), splat(real)
    for h in range(0, n, lanes(real)):
        w_re, w_im = load(g, w + h, w + n), load(g, w + n + h, w + 2 * n)
        re = load(g, row + h, row + n) - f_re * w_re + f_im * w_im
        im = load(g, row + n + h, row + 2 * n) - f_re * w_im - f_im * w_re
        store(g, row + h, row + n, re)
        store(g, row + n + h, row + 2 * n, im)
        square = square + re * re + im * im
    return total(square)


@compiled
def _square(g, row, n, real):  # type: ignore[no-untyped-def]
    square = real
    for h in range(2 * n):
        square += g[row + h] * g[row + h]
    return square


@compiled
def _scale(g, row, n, length, real):  # type: ignore[no-untyped-def]
    for h in range(2 * n):
        g[row + h] = g[row + h] / length if length > 0 else real


@compiled
def _peel(g, row, w, n, rest, products, z, p, real):  # type: ignore[no-untyped-def]
    """A step for the pole ``exp(p)`` on the row of ``exp(z)``: ``a_i``, and the square of the length that is left.

    ``rest`` is ``1 - b(exp(z))``.
    """
    along = _along(g, row, w, n, real)
    if n > 1:
        return along, _take_off(g, row, along * rest, w, n, real)
    if g[w] == 0 and g[w + 1] == 0:  # no direction: the conjugate of a real pole
        return along, _square(g, row, n, real)
    left = complex(g[row], g[row + 1]) * blaschke(z, p, products, real)  # nothing to subtract, so nothing cancels
    g[row], g[row + 1] = left.real, left.imag
    return along, left.real * left.real + left.imag * left.imag


@compiled
def _orthogonal_parts(g, row, to, n, real):  # type: ignore[no-untyped-def]
    """The phase that makes real and imaginary part of a row orthogonal; both, as unit vectors in the row `to`; lengths.

    An imaginary part that is only rounding is zero.
    """
    pseudo = complex(real, real)
    for h in range(n):
        entry = complex(g[row + h], g[row + n + h])
        pseudo += entry * entry
    psi = math.atan2(pseudo.imag, pseudo.real) / 2
    phase, a, ab = complex(math.cos(psi), math.sin(psi)), real, real
    for h in range(n):
        turned = complex(g[row + h], g[row + n + h]) * phase.conjugate()
        g[to + h], g[to + n + h] = turned.real, turned.imag
        a += turned.real * turned.real
        ab += turned.real * turned.imag
    b = real
    for h in range(n):
        g[to + n + h] -= ab / a * g[to + h]
        b += g[to + n + h] * g[to + n + h]
    a, b = math.sqrt(a), math.sqrt(b)
    b = b if b > _ROUNDING * a and n > 1 else real
    for h in range(n):
        g[to + h], g[to + n + h] = g[to + h] / a, g[to + n + h] / b if b > 0 else real
    return phase, a, b


@compiled
def _two_directions(g, row, w, n, pole, width, real):  # type: ignore[no-untyped-def]
    """Directions of the steps for ``l_p`` and ``conj l_p``, and the turn ``Z``: a phase, a sine, a cosine.

    With ``g_p = phase (a + i b)``, real ``a`` and ``b`` orthogonal, the first direction is ``phase (a + i b) / |g|``.
    What it leaves of ``conj g_p`` has a part across, along ``|b| a^ - i |a| b^`` in terms of unit vectors, and the
    part along, times the Blaschke factor. Put together in this way the two directions fit each other to rounding,
    however close the pole is to the real axis and the row to real numbers: else the rows would not stay conjugates.
    """
    second, doubled = w + 2 * n, 2 * pole.real
    phase, a, b = _orthogonal_parts(g, row, second, n, real)
    length = math.hypot(a, b)
    products = one_minus(math.expm1(doubled), math.exp(doubled), -pole.imag, -pole.imag)
    cosine = (a - b) / length * ((a + b) / length)
    across, down = 2 * a * b / (length * length), cosine * blaschke(pole.conjugate(), pole, products, real)
    left = math.sqrt(across * across + down.real * down.real + down.imag * down.imag)
    scale = phase.conjugate() / left if left > 0 else complex(real, real)
    for h in range(n):
        unit_a, unit_b = g[second + h], g[second + n + h]
        one = complex(a * unit_a, b * unit_b) / length
        two = scale * (across * complex(b * unit_a, -a * unit_b) / length + down * one)
        one = phase * one
        g[w + h], g[w + n + h], g[second + h], g[second + n + h] = one.real, one.imag, two.real, two.imag
    shared = cosine * (width * width) / products * (phase * phase).conjugate()
    angle, turn = math.atan2(left, abs(shared)) / 2, -math.atan2(shared.imag, shared.real) / 2
    return complex(math.cos(turn), math.sin(turn)), math.sin(angle), math.cos(angle)


@compiled
def products_and_rest(table, i, z, pole, p_less, p_size, p_square, one_minus_p):  # type: ignore[no-untyped-def]
    """``1 - z conj l_p`` and ``1 - b(z)``, for the row i of the pole ``exp(z)``."""
    products = one_minus(table[0, i] + table[1, i] * p_less, table[1, i] * p_size, z.imag, -pole.imag)
    return products, complex(table[4, i], table[5, i]) * p_square / (products * one_minus_p)


@compiled
def put(out, own, i, f, mirrored, sine, cosine, pairs):  # type: ignore[no-untyped-def]
    """The entry of row i in column `own`; the two columns of a pair are turned into each other until they are real."""
    if mirrored:
        out[own, 0, i] += f.real * sine
        out[own, 1, i] += f.imag * sine
        out[own + 1, 0, i] += f.imag * cosine
        out[own + 1, 1, i] -= f.real * cosine
        return
    out[own, 0, i], out[own, 1, i] = f.real * cosine, f.imag * cosine
    if pairs:
        out[own + 1, 0, i], out[own + 1, 1, i] = -f.imag * sine, f.real * sine


@compiled
def step(own, p, n, pairs, logs, table, g, out, real):  # type: ignore[no-untyped-def]
    """Column `own` (and the next, of a pair) from the pivot p, for all rows with energy left; the turn ``Z``.

    The directions are left behind the rows of `g`.
    """
    pole, p_less, p_size, p_square, w = logs[p], table[0, p], table[1, p], table[2, p], 2 * n * len(logs)
    one_minus_p, width = complex(table[4, p], table[5, p]), math.sqrt(p_square)
    for h in range(2 * n):
        g[w + h] = g[2 * n * p + h]
    length = math.sqrt(_square(g, w, n, real))
    _scale(g, w, n, length, real)
    half, sine, cosine = complex(1.0, real), real, real + 1
    if pairs:
        half, sine, cosine = _two_directions(g, 2 * n * p, w, n, pole, width, real)
    put(out, own, p, half * (length / width), 0, sine, cosine, pairs)
    table[3, p] = -1.0
    for i in range(len(logs)):
        if not table[3, i] > 0:
            continue
        z, row = logs[i], 2 * n * i
        products, rest = products_and_rest(table, i, z, pole, p_less, p_size, p_square, one_minus_p)
        along, square = _peel(g, row, w, n, rest, products, z, pole, real)
        put(out, own, i, along * half * width / products, 0, sine, cosine, pairs)
        if pairs:
            mirror, one_minus_m = pole.conjugate(), one_minus_p.conjugate()
            products, rest = products_and_rest(table, i, z, mirror, p_less, p_size, p_square, one_minus_m)
            along, square = _peel(g, row, w + 2 * n, n, rest, products, z, mirror, real)
            put(out, own, i, along * half.conjugate() * width / products, 1, sine, cosine, pairs)
        table[3, i] = square / table[2, i]
    return half, sine, cosine


@compiled
def begin(logs, g, n, table, real):  # type: ignore[no-untyped-def]
    """Fill the table of rows that nothing has been taken off yet."""
    for i in range(len(logs)):
        table[0, i], table[1, i], table[2, i] = sizes(logs[i])
        table[3, i] = _square(g, 2 * n * i, n, real) / table[2, i]
        one_minus_l = one_minus(table[0, i], table[1, i], logs[i].imag, real)
        table[4, i], table[5, i] = one_minus_l.real, one_minus_l.imag


@compiled
def best(table):  # type: ignore[no-untyped-def]
    """The row with the most energy left."""
    p = 0
    for i in range(1, table.shape[1]):
        p = i if table[3, i] > table[3, p] else p
    return p


@compiled
def _factor(index, args, real):  # type: ignore[no-untyped-def]
    """One factor: ``out[k]`` is column k, real parts before imaginary parts; ``made`` says how many steps it took."""
    tasks, modes, n, pairs = args[0], args[1], args[2], args[3]
    logs = array(args[4], (tasks, modes), complex(real, real))[index]
    g = array(args[5], (tasks, (modes + 2) * 2 * n), real)[index]
    table = array(args[6], (tasks, TABLE, modes), real)[index]
    out = array(args[7], (tasks, modes * (1 + pairs), 2, modes), real)[index]
    made = array(args[8], (tasks,), real)
    begin(logs, g, n, table, real)
    for k in range(modes):
        p = best(table)
        if not table[3, p] > 0:
            break
        step(k * (1 + pairs), p, n, pairs, logs, table, g, out, real)
        made[index] = k + 1


@entry
def factor_entry(data):  # type: ignore[no-untyped-def]
    run(_factor, data)
