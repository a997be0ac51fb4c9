"""Random recurrences with a matrix for a state, for the tests of their kernels."""

from __future__ import annotations

import torch
from torch import Tensor

SHAPES = (  # batch, length, heads, P, groups, N
    (1, 1, 1, 1, 1, 1),
    (2, 7, 4, 3, 2, 5),
    (1, 63, 2, 8, 1, 6),
    (3, 33, 3, 17, 1, 16),
    (2, 130, 6, 5, 3, 7),
    (2, 41, 2, 64, 2, 33),
    (1, 20, 2, 80, 1, 10),
    (8, 20, 5, 3, 1, 4),
)


def random_matrix_recurrence(
    shape: tuple[int, ...], *, gated: bool = False, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[Tensor, ...]:
    """``x, log_decay, B, C, state`` of ``(batch, length, heads, P, groups, N)``, seeded.

    Decays reach from hardly any to ``exp(-100)``. With `gated` there is one for every key channel, and heads share
    nothing.
    """
    batch, length, heads, P, groups, N = shape
    g = torch.Generator().manual_seed(seed)
    like = {"generator": g, "dtype": torch.float64}
    groups = heads if gated else groups
    decays = (batch, length, heads, N) if gated else (batch, length, heads)
    x, B, C = (torch.randn(batch, length, *rest, **like) for rest in ((heads, P), (groups, N), (groups, N)))
    log_decay = -(10 ** (torch.rand(decays, **like) * 6 - 4))
    state = torch.randn(batch, heads, P, N, **like)
    return tuple(t.to(dtype) for t in (x, log_decay, B / N**0.5, C, state))
