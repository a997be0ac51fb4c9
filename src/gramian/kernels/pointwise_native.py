"""Activation, dropout and gate in one pass over the data; tasks are pieces of a flat array, or rows of a matrix."""

from __future__ import annotations

import numpy as np

from gramian.kernels.native import array, compiled, entry, run
from gramian.kernels.vector_math import erf, keep, keys, logistic, normal_density
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import indices, lanes, where

__all__ = [
    "PIECE",
    "dropout_entry",
    "gelu_dropout_backward_entry",
    "gelu_dropout_entry",
    "glu_dropout_add_backward_entry",
    "glu_dropout_add_entry",
]

PIECE = 8192  # numbers a task

# Of the arguments, `threshold` is the rate of dropout in units of 2**-24, and a rate of 0 takes no random numbers.


@compiled
def _scale(threshold):  # type: ignore[no-untyped-def]
    """By which kept values grow: ``1 / (1 - rate)``."""
    return 16777216.0 / np.float64(16777216 - threshold)


@compiled
def _dropped(x, first, key, other, threshold, scale):  # type: ignore[no-untyped-def]
    """A vector whose first number has the counter `first`, with some of its numbers zero and the others grown."""
    if threshold == 0:
        return x
    return where(keep(indices(x), first, key, other, threshold), x * scale, x * 0)


@compiled
def _dropout(index, args, real):  # type: ignore[no-untyped-def]
    n, threshold = args[0], args[1]
    key, other = keys(array(args[2], 1, args[0])[0])
    x, y = array(args[3], n, real), array(args[4], n, real)
    first, scale = index * PIECE, _scale(threshold)
    last = min(first + PIECE, n)
    for i in range(first, last, lanes(real)):
        store(y, i, last, _dropped(load(x, i, last), i, key, other, threshold, scale))


@entry
def dropout_entry(data):  # type: ignore[no-untyped-def]
    run(_dropout, data)


@compiled
def _gelu_dropout(index, args, real):  # type: ignore[no-untyped-def]
    n, threshold = args[0], args[1]
    key, other = keys(array(args[2], 1, args[0])[0])
    x, y = array(args[3], n, real), array(args[4], n, real)
    first, scale = index * PIECE, _scale(threshold)
    last = min(first + PIECE, n)
    for i in range(first, last, lanes(real)):
        x_i = load(x, i, last)
        gelu = x_i * (erf(x_i * 0.7071067811865476) * 0.5 + 0.5)
        store(y, i, last, _dropped(gelu, i, key, other, threshold, scale))


@entry
def gelu_dropout_entry(data):  # type: ignore[no-untyped-def]
    run(_gelu_dropout, data)


@compiled
def _gelu_dropout_backward(index, args, real):  # type: ignore[no-untyped-def]
    n, threshold = args[0], args[1]
    key, other = keys(array(args[2], 1, args[0])[0])
    x, g, g_x = array(args[3], n, real), array(args[4], n, real), array(args[5], n, real)
    first, scale = index * PIECE, _scale(threshold)
    last = min(first + PIECE, n)
    for i in range(first, last, lanes(real)):
        x_i = load(x, i, last)
        slope = erf(x_i * 0.7071067811865476) * 0.5 + 0.5 + x_i * normal_density(x_i)
        store(g_x, i, last, slope * _dropped(load(g, i, last), i, key, other, threshold, scale))


@entry
def gelu_dropout_backward_entry(data):  # type: ignore[no-untyped-def]
    run(_gelu_dropout_backward, data)


@compiled
def _glu_dropout_add(index, args, real):  # type: ignore[no-untyped-def]
    """``skip + dropout(a * logistic(b))`` for rows ``[a, b]`` of z; counters are places in the output."""
    rows, H, threshold = args[0], args[1], args[2]
    key, other = keys(array(args[3], 1, args[0])[0])
    z, skip, y = array(args[4], rows * 2 * H, real), array(args[5], rows * H, real), array(args[6], rows * H, real)
    each, scale = max(PIECE // H, 1), _scale(threshold)
    for r in range(index * each, min(index * each + each, rows)):
        i, j = r * H, r * 2 * H
        for h in range(0, H, lanes(real)):
            gated = load(z, j + h, j + H) * logistic(load(z, j + H + h, j + 2 * H))
            store(y, i + h, i + H, load(skip, i + h, i + H) + _dropped(gated, i + h, key, other, threshold, scale))


@entry
def glu_dropout_add_entry(data):  # type: ignore[no-untyped-def]
    run(_glu_dropout_add, data)


@compiled
def _glu_dropout_add_backward(index, args, real):  # type: ignore[no-untyped-def]
    rows, H, threshold = args[0], args[1], args[2]
    key, other = keys(array(args[3], 1, args[0])[0])
    z, g, g_z = array(args[4], rows * 2 * H, real), array(args[5], rows * H, real), array(args[6], rows * 2 * H, real)
    each, scale = max(PIECE // H, 1), _scale(threshold)
    for r in range(index * each, min(index * each + each, rows)):
        i, j = r * H, r * 2 * H
        for h in range(0, H, lanes(real)):
            gate = logistic(load(z, j + H + h, j + 2 * H))
            back = gate * _dropped(load(g, i + h, i + H), i + h, key, other, threshold, scale)
            store(g_z, j + h, j + H, back)
            store(g_z, j + H + h, j + 2 * H, back * load(z, j + h, j + H) * (1.0 - gate))


@entry
def glu_dropout_add_backward_entry(data):  # type: ignore[no-untyped-def]
    run(_glu_dropout_add_backward, data)
