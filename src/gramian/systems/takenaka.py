"""The pivoted Malmquist-Takenaka recurrence as a compiled kernel: factors of Gramians without the Gramians.

A step takes the row ``p`` with the most energy left. With ``w = g_p / |g_p|`` it adds a column to the factor and takes
what the column explains off the inputs that are left:

    a_i = g_i w*        F_ik = a_i (1 - |l_p|^2)^(1/2) / (1 - l_i conj l_p)        g_i <- g_i - a_i (1 - b(l_i)) w

with the Blaschke factor ``b`` of ``l_p``, turned so that ``b(1) = 1``:
``1 - b(z) = (1 - |l_p|^2) (1 - z) / ((1 - z conj l_p) (1 - l_p))``, where nothing cancels. Everything is computed from
logarithms of the poles, so clusters and poles next to the unit circle lose no digits.

**Conjugate pairs.** The modes of a real system come with their conjugates. Steps for ``l_p`` and ``conj l_p``, one
after the other, leave rows that are conjugates of each other again (that is what ``b(1) = 1`` is for), so half of
them are kept; and the two columns, turned by a unitary matrix ``Z``, are conjugates too: in the coordinates
``(Re x, Im x)`` they are real.
"""

from __future__ import annotations

import cmath
import math

import numpy as np
import torch
from torch import Tensor

from gramian.kernels.native import array, compiled, entry, launch, run
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, splat, total

__all__ = ["takenaka_factors"]

_ROUNDING = 1e-15
_PI_REST = 1.2246467991473532e-16  # what float64 rounds off pi


@compiled
def _turn(one, two):  # type: ignore[no-untyped-def]
    """Sine and cosine of half the sum of two angles, up to a common sign; exact where the sum is near a whole turn."""
    turns = math.floor((one + two) / (2 * math.pi) + 0.5)
    half = ((one - turns * math.pi) + (two - turns * math.pi) - 2 * turns * _PI_REST) / 2
    return math.sin(half), math.cos(half)


@compiled
def _one_minus(less, size, one, two):  # type: ignore[no-untyped-def]
    """``1 - size exp(i (one + two))`` where ``less`` is ``size - 1``."""
    sine, cosine = _turn(one, two)
    return complex(2 * sine * sine * size - less, -2 * sine * cosine * size)


@compiled
def _difference(one, two):  # type: ignore[no-untyped-def]
    """``exp(one) - exp(two)``, exact inside a cluster."""
    apart = one.real - two.real
    if abs(apart) < 1:
        return -cmath.exp(two) * _one_minus(math.expm1(apart), math.exp(apart), one.imag, -two.imag)
    return cmath.exp(one) - cmath.exp(two)


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
def _blaschke(z, p, products, real):  # type: ignore[no-untyped-def]
    """``b`` of the pole ``exp(p)`` at ``exp(z)``, from its zero; ``products`` is ``1 - exp(z + conj p)``."""
    one_minus_p = _one_minus(math.expm1(p.real), math.exp(p.real), p.imag, real)
    return _difference(z, p) * one_minus_p.conjugate() / (products * one_minus_p)


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
    left = complex(g[row], g[row + 1]) * _blaschke(z, p, products, real)  # nothing to subtract, so nothing cancels
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
    products = _one_minus(math.expm1(doubled), math.exp(doubled), -pole.imag, -pole.imag)
    cosine = (a - b) / length * ((a + b) / length)
    across, down = 2 * a * b / (length * length), cosine * _blaschke(pole.conjugate(), pole, products, real)
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
def _step(step, p, n, pairs, logs, table, g, out, real):  # type: ignore[no-untyped-def]
    """Column `step` (two of them, of a pair) from the pivot p, for all rows with energy left."""
    pole, self_product, w, own = logs[p], table[2, p], 2 * n * len(logs), step * (1 + pairs)
    one_minus_p, width = _one_minus(table[0, p], table[1, p], pole.imag, real), math.sqrt(self_product)
    for h in range(2 * n):
        g[w + h] = g[2 * n * p + h]
    length = math.sqrt(_square(g, w, n, real))
    _scale(g, w, n, length, real)
    half, sine, cosine = complex(1.0, real), real, real + 1
    if pairs:
        half, sine, cosine = _two_directions(g, 2 * n * p, w, n, pole, width, real)
        out[own + 1, 0, p], out[own + 1, 1, p] = -half.imag * sine * length / width, half.real * sine * length / width
    out[own, 0, p], out[own, 1, p] = half.real * cosine * length / width, half.imag * cosine * length / width
    table[3, p] = -1.0
    for i in range(len(logs)):
        if not table[3, i] > 0:
            continue
        less, size, z, row = table[0, i], table[1, i], logs[i], 2 * n * i
        down, both, numerator = less + size * table[0, p], size * table[1, p], self_product
        top = _one_minus(less, size, z.imag, real) * numerator
        products = _one_minus(down, both, z.imag, -pole.imag)
        along, square = _peel(g, row, w, n, top / (products * one_minus_p), products, z, pole, real)
        f = along * half * width / products
        if pairs:
            products, mirror = _one_minus(down, both, z.imag, pole.imag), pole.conjugate()
            rest = top / (products * one_minus_p.conjugate())
            along, square = _peel(g, row, w + 2 * n, n, rest, products, z, mirror, real)
            second = along * half.conjugate() * width / products
            out[own + 1, 0, i] = second.imag * cosine - f.imag * sine
            out[own + 1, 1, i] = f.real * sine - second.real * cosine
            f = f * cosine + second * sine
        out[own, 0, i], out[own, 1, i] = f.real, f.imag
        table[3, i] = square / table[2, i]


@compiled
def _factor(index, args, real):  # type: ignore[no-untyped-def]
    """One factor: ``out[k]`` is column k, real parts before imaginary parts; ``made`` says how many steps it took.

    Rows of ``table``: ``|l| - 1``, ``|l|``, ``1 - |l|^2``, and the energies ``|g|^2 / (1 - |l|^2)``, -1 for done.
    """
    tasks, modes, n, pairs = args[0], args[1], args[2], args[3]
    logs = array(args[4], (tasks, modes), complex(real, real))[index]
    g = array(args[5], (tasks, (modes + 2) * 2 * n), real)[index]
    table = array(args[6], (tasks, 4, modes), real)[index]
    out = array(args[7], (tasks, modes * (1 + pairs), 2, modes), real)[index]
    made = array(args[8], (tasks,), real)
    for i in range(modes):
        growth = logs[i].real
        table[0, i], table[1, i], table[2, i] = math.expm1(growth), math.exp(growth), -math.expm1(2 * growth)
        table[3, i] = _square(g, 2 * n * i, n, real) / table[2, i]
    for step in range(modes):
        p = 0
        for i in range(1, modes):
            p = i if table[3, i] > table[3, p] else p
        if not table[3, p] > 0:
            break
        _step(step, p, n, pairs, logs, table, g, out, real)
        made[index] = step + 1


@compiled
def _factor_in_double(index, args, real):  # type: ignore[no-untyped-def]
    _factor(index, args, np.float64(0))


@entry
def _factor_entry(data):  # type: ignore[no-untyped-def]
    run(_factor_in_double, data)


def takenaka_factors(logs: Tensor, B: Tensor, pairs: bool) -> Tensor:
    """Factors ``F`` with ``F F* = P`` for poles ``exp(logs)`` (..., n) and inputs `B` (..., n, H), both complex128.

    With `pairs`, the modes stand for themselves and their conjugates, as in a real-part system: ``F`` is real, of
    shape ``(..., 2n, k)``, in the coordinates ``(Re x, Im x)``. Otherwise it is complex, ``(..., n, k)``.
    """
    batch, (n, n_inputs) = B.shape[:-2], B.shape[-2:]
    tasks, double = max(1, math.prod(batch)), torch.float64
    g = torch.zeros(tasks, n + 2, 2, n_inputs, dtype=double)  # two more rows, for the directions of a step
    g[:, :n, 0], g[:, :n, 1] = B.real.reshape(tasks, n, n_inputs), B.imag.reshape(tasks, n, n_inputs)
    table, made = torch.empty(tasks, 4, n, dtype=double), torch.zeros(tasks, dtype=double)
    out = torch.zeros(tasks, n * (1 + pairs), 2, n, dtype=double)
    launch(
        _factor_entry,
        tasks,
        double,
        tasks,
        n,
        n_inputs,
        int(pairs),
        logs.resolve_conj().contiguous(),
        g,
        table,
        out,
        made,
    )
    k = max(1, int(made.max()) * (1 + pairs))
    out = out[:, :k].reshape(*batch, k, 2, n)
    return out.flatten(-2).mT if pairs else torch.complex(out[..., 0, :], out[..., 1, :]).mT
