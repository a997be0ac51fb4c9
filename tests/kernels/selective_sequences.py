"""Random selective recurrences for the tests of their kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from gramian.kernels import selective_scan

Tensors = tuple[Tensor, ...]
OPTIONAL = ("D", "z", "dt_bias", "state")

# batch, L, channels, N, groups: remainders of blocks of time, of vectors of channels, of fours of states
SHAPES = (
    (1, 1, 1, 1, 1),
    (3, 2, 13, 3, 1),
    (1, 63, 40, 16, 2),
    (3, 63, 13, 25, 1),
    (1, 257, 40, 3, 1),
    (2, 17, 6, 4, 3),
    (1, 20, 300, 5, 1),  # one sequence, and tasks that share it
    (2, 16, 136, 4, 2),
)


def random_sequences(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype = torch.float64, seed: int = 0
) -> dict[str, Tensor]:
    """All arguments by name, seeded; states from those that forget at once to those that hardly forget."""
    batch, length, channels, order, groups = shape
    g = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    whole = (batch, length, channels)
    tensors = {
        "u": normal(*whole),
        "dt": normal(*whole) - 1,
        "A": -torch.exp(2 * normal(channels, order)),
        "B": normal(batch, length, groups, order),
        "C": normal(batch, length, groups, order),
        "D": normal(channels),
        "z": normal(*whole),
        "dt_bias": normal(channels),
        "state": normal(batch, channels, order),
    }
    if groups == 1:
        tensors["B"], tensors["C"] = tensors["B"][:, :, 0], tensors["C"][:, :, 0]
    return {name: t.to(dtype) for name, t in tensors.items()}


def run(tensors: dict[str, Tensor], backend: str, softplus: bool = True) -> Tensors:
    """Output and final state."""
    y, final = selective_scan(**tensors, softplus=softplus, final_state=True, backend=backend)
    assert final is not None
    return y, final
