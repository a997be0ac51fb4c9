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

import torch
from torch import Tensor

from gramian.kernels.native import launch
from gramian.systems.takenaka_groups import factor_by_groups
from gramian.systems.takenaka_steps import TABLE, factor_entry

__all__ = ["takenaka_factors"]

_MANY = 2**19  # numbers in the inputs, from which on groups of steps are faster than one step after the other


def takenaka_factors(logs: Tensor, B: Tensor, pairs: bool) -> Tensor:
    """Factors ``F`` with ``F F* = P`` for poles ``exp(logs)`` (..., n) and inputs `B` (..., n, H), both complex128.

    With `pairs`, the modes stand for themselves and their conjugates, as in a real-part system: ``F`` is real, of
    shape ``(..., 2n, k)``, in the coordinates ``(Re x, Im x)``. Otherwise it is complex, ``(..., n, k)``.
    """
    batch, (n, n_inputs) = B.shape[:-2], B.shape[-2:]
    systems = logs.resolve_conj().reshape(-1, n).contiguous(), B.resolve_conj().reshape(-1, n, n_inputs)
    out, k = (_by_groups if n * n_inputs >= _MANY else _by_steps)(*systems, pairs)
    out = out[:, : max(1 + pairs, k)].reshape(*batch, -1, 2, n)
    return out.flatten(-2).mT if pairs else torch.complex(out[..., 0, :], out[..., 1, :]).mT


def _by_steps(logs: Tensor, B: Tensor, pairs: bool) -> tuple[Tensor, int]:
    (tasks, n, n_inputs), double = B.shape, torch.float64
    g = torch.zeros(tasks, n + 2, 2, n_inputs, dtype=double)  # two more rows, for the directions of a step
    g[:, :n, 0], g[:, :n, 1] = B.real, B.imag
    table, made = torch.empty(tasks, TABLE, n, dtype=double), torch.zeros(tasks, dtype=double)
    out = torch.zeros(tasks, n * (1 + pairs), 2, n, dtype=double)
    launch(factor_entry, tasks, double, tasks, n, n_inputs, int(pairs), logs, g, table, out, made)
    return out, int(made.max()) * (1 + pairs)


def _by_groups(logs: Tensor, B: Tensor, pairs: bool) -> tuple[Tensor, int]:
    tasks, n, _ = B.shape
    out = torch.zeros(tasks, n * (1 + pairs), 2, n, dtype=torch.float64)
    systems = zip(logs, B, out, strict=True)
    return out, max(factor_by_groups(poles, inputs, pairs, room) for poles, inputs, room in systems)
