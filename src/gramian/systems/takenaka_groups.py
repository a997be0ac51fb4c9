"""The Malmquist-Takenaka recurrence for many modes with many inputs, a group of pivots at a time.

The rows with the most energy are candidates. They take steps among themselves while one of them has at least half of
the energy of any row outside; then all other rows catch up at once, and nearly all of the work is matrix products. With
``a_ik = g_i w_k*`` of the rows as they were, and ``c_ik = a_ik (1 - b_k(l_i))`` what step k takes off row i,

    a_ik <- a_ik - sum_{j<k} c_ij w_j w_k*        g_i <- g_i - sum_k c_ik w_k

Energies only fall, so the pivots are those of the plain recurrence up to that factor of two.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gramian.kernels.native import array, compiled, entry, launch, run
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, splat
from gramian.systems.blaschke import one_minus, sizes
from gramian.systems.takenaka_steps import TABLE, begin, best, products_and_rest, put, step

__all__ = ["factor_by_groups"]

_GROUP = 32  # candidates
_CHUNK = 64  # rows a task
_GREED = 0.5  # of the largest energy outside: a candidate with less is no pivot


@compiled
def _take_steps(index, args, real):  # type: ignore[no-untyped-def]
    """Steps among the candidates; of each, the pivot, a phase, a sine and a cosine, and its directions."""
    modes, n, pairs, floor = args[0], args[1], args[2], array(args[3], 1, real)[0]
    logs, table = array(args[4], modes, complex(real, real)), array(args[5], (TABLE, modes), real)
    g, out = array(args[6], (modes + 2) * 2 * n, real), array(args[7], (modes * (1 + pairs), 2, modes), real)
    facts, directions = array(args[8], (modes, 4), real), array(args[9], modes * (1 + pairs) * 2 * n, real)
    made = array(args[10], 1, 0)
    begin(logs, g, n, table, real)
    for k in range(modes):
        p = best(table)
        if not table[3, p] > floor:
            break
        half, sine, cosine = step(k * (1 + pairs), p, n, pairs, logs, table, g, out, real)
        facts[k, 0], facts[k, 1], facts[k, 2], facts[k, 3] = half.real, half.imag, sine, cosine
        for h in range((1 + pairs) * 2 * n):
            directions[k * (1 + pairs) * 2 * n + h] = g[modes * 2 * n + h]
        array(args[11], modes, 0)[k] = p
        made[0] = k + 1


@entry
def _steps_entry(data):  # type: ignore[no-untyped-def]
    run(_take_steps, data)


@compiled
def _catch_up(a, overlaps, k, columns, start, end, rows, real):  # type: ignore[no-untyped-def]
    """``a_k`` of some rows, less what the steps before have taken off them; `a` holds their ``c_j``."""
    imaginary = columns * rows
    for i in range(start, end, lanes(real)):
        last = end - i
        at = k * rows + i
        re, im = load(a, at, at + last), load(a, imaginary + at, imaginary + at + last)
        for j in range(k):
            at = j * rows + i
            c_re, c_im = load(a, at, at + last), load(a, imaginary + at, imaginary + at + last)
            o_re, o_im = splat(overlaps[0, k, j]), splat(overlaps[1, k, j])
            re, im = re - (c_re * o_re - c_im * o_im), im - (c_re * o_im + c_im * o_re)
        at = k * rows + i
        store(a, at, at + last, re)
        store(a, imaginary + at, imaginary + at + last, im)


@compiled
def _fill(table, logs, start, end, real):  # type: ignore[no-untyped-def]
    for i in range(start, end):
        table[0, i], table[1, i], table[2, i] = sizes(logs[i])
        one_minus_l = one_minus(table[0, i], table[1, i], logs[i].imag, real)
        table[4, i], table[5, i] = one_minus_l.real, one_minus_l.imag


@compiled
def _follow(index, args, real):  # type: ignore[no-untyped-def]
    """Rows outside: their entries of the new columns, and what is taken off them in place of their products."""
    rows, steps, n, pairs, first, width = args[0], args[1], args[2], args[3], args[4], 1 + args[3]
    start, columns = index * args[5], steps * width
    end, zero = min(start + args[5], rows), complex(real, real)
    logs, names = array(args[6], rows, zero), array(args[7], rows, 0)
    flat, overlaps = array(args[8], 2 * columns * rows, real), array(args[9], (2, columns, columns), real)
    poles, facts = array(args[10], steps, zero), array(args[11], (steps, 4), real)
    out, table = array(args[12], (n * width, 2, n), real), array(args[13], (TABLE, rows), real)
    a = array(args[8], (2, columns, rows), real)
    _fill(table, logs, start, end, real)
    for k in range(columns):
        pole, own = poles[k // width], first + k - k % width
        less, size, square = sizes(pole)
        half = complex(facts[k // width, 0], facts[k // width, 1])
        sine, cosine = facts[k // width, 2], facts[k // width, 3]
        if k % width:
            pole, half = pole.conjugate(), half.conjugate()
        one_minus_p = one_minus(less, size, pole.imag, real)
        _catch_up(flat, overlaps, k, columns, start, end, rows, real)
        for i in range(start, end):
            along = complex(a[0, k, i], a[1, k, i])
            products, rest = products_and_rest(table, i, logs[i], pole, less, size, square, one_minus_p)
            f, c = along * half * math.sqrt(square) / products, along * rest
            a[0, k, i], a[1, k, i] = c.real, c.imag
            put(out, own, names[i], f, k % width, sine, cosine, pairs)


@entry
def _follow_entry(data):  # type: ignore[no-untyped-def]
    run(_follow, data)


def factor_by_groups(logs: Tensor, B: Tensor, pairs: bool, out: Tensor) -> int:
    """Write the columns of the factor of one system to `out`, zeros ``(n (1 + pairs), 2, n)``; how many there are.

    Poles ``exp(logs)`` (n,) and inputs `B` (n, H), both complex128; see `gramian.systems.takenaka.takenaka_factors`.
    """
    n = len(logs)
    names, logs, g = torch.arange(n), logs.clone(), B.clone(memory_format=torch.contiguous_format)
    energy, alive, made = _energy(logs, g), n, 0
    while alive:
        count = min(_GROUP, alive)
        _to_the_end(energy[:alive].topk(count).indices, alive, names, logs, g, energy)
        outside, group = slice(0, alive - count), slice(alive - count, alive)
        floor = _GREED * energy[outside].max().clamp(min=0) if alive > count else torch.zeros((), dtype=torch.float64)
        taken = _Group(logs[group], g[group], pairs, floor)
        if not taken.steps:
            break
        columns = slice(made, made + taken.steps * (1 + pairs))
        out[columns, :, names[group]] = taken.columns
        taken.take_off(logs[outside], g[outside], names[outside], made, out)
        energy[outside] = _energy(logs[outside], g[outside])
        for tensor, values in ((names, names[group]), (logs, logs[group]), (g, taken.left), (energy, taken.energy)):
            tensor[group] = values[taken.order]  # those that have made a step last
        alive, made = alive - taken.steps, columns.stop
    return made


def _energy(logs: Tensor, g: Tensor) -> Tensor:
    return torch.linalg.vector_norm(torch.view_as_real(g), dim=(1, 2)).square() / -torch.expm1(2 * logs.real)


def _to_the_end(chosen: Tensor, end: int, *tensors: Tensor) -> None:
    """Exchange rows so that the chosen ones are the last before `end`."""
    start = end - len(chosen)
    is_chosen = torch.zeros(end, dtype=torch.bool)
    is_chosen[chosen] = True
    one, two = is_chosen[:start].nonzero()[:, 0], start + (~is_chosen[start:]).nonzero()[:, 0]
    for tensor in tensors:
        tensor[torch.cat([one, two])] = tensor[torch.cat([two, one])]


class _Group:
    """The steps that candidates make among themselves, and how other rows follow."""

    def __init__(self, logs: Tensor, g: Tensor, pairs: bool, floor: Tensor) -> None:
        (m, n), double, width = g.shape, torch.float64, 1 + pairs
        self.pairs, room = int(pairs), torch.zeros(m + 2, 2, n, dtype=double)
        room[:m, 0], room[:m, 1] = g.real, g.imag
        table, facts = torch.zeros(TABLE, m, dtype=double), torch.zeros(m, 4, dtype=double)
        out, directions = torch.zeros(m * width, 2, m, dtype=double), torch.zeros(m * width, 2, n, dtype=double)
        made, pivots = torch.zeros(1, dtype=torch.int64), torch.zeros(m, dtype=torch.int64)
        tensors = (floor.reshape(1), logs.contiguous(), table, room, out, facts, directions, made, pivots)
        launch(_steps_entry, 1, double, m, n, self.pairs, *tensors)
        self.steps = int(made)
        pivots, own = pivots[: self.steps], slice(0, self.steps * width)
        self.facts, self.poles, self.columns = facts[: self.steps], logs[pivots], out[own]
        self.directions = torch.complex(directions[own, 0], directions[own, 1])
        self.left, self.energy = torch.complex(room[:m, 0], room[:m, 1]), table[3]
        others = torch.ones(m, dtype=torch.bool).index_fill_(0, pivots, False)
        self.order = torch.cat([others.nonzero()[:, 0], pivots])

    def take_off(self, logs: Tensor, g: Tensor, names: Tensor, first: int, out: Tensor) -> None:
        """Write entries of other rows to columns of `out` from `first` on, and take the columns off the rows `g`."""
        rows = len(g)
        if not rows:
            return
        W, table = self.directions, torch.empty(TABLE, rows, dtype=torch.float64)
        products, overlaps = W.conj() @ g.mT, W.conj() @ W.mT  # g_i w_k* in row k, w_j w_k* in row k
        a, overlaps = (torch.stack([m.real, m.imag]) for m in (products, overlaps))
        tensors = (logs, names, a, overlaps, self.poles, self.facts, out, table)
        sizes = (rows, self.steps, out.shape[-1], self.pairs, first, _CHUNK)
        launch(_follow_entry, -(-rows // _CHUNK), torch.float64, *sizes, *tensors)
        g.addmm_(torch.complex(a[0], a[1]).mT, W, alpha=-1)
