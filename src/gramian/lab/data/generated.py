"""What the generated tasks share: three splits from one seed, and choosing without replacement, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from gramian.lab.data.parameters import Generated
from gramian.lab.data.sequences import SequenceData, Split

__all__ = ["Draw", "distinct", "generated_data", "token_split"]

Ints = NDArray[np.int64]
Draw = Callable[[np.random.Generator, int], Split]


def generated_data(
    name: str,
    parameters: Generated,
    draw: Draw,
    seed: int,
    *,
    n_tokens: int,
    origin: str,
    further: Mapping[str, Draw] | None = None,
) -> SequenceData:
    """The task whose sequences `draw` makes: the splits, each with a generator of its own seeded by (seed, number).

    `further` makes test sets of another kind, as large as the test set.
    """
    sizes = (parameters.n_train, parameters.n_valid, parameters.n_test)
    train, valid, test = (draw(np.random.default_rng([seed, i]), n) for i, n in enumerate(sizes))
    others = enumerate((further or {}).items(), start=3)
    values = ", ".join(f"{key} {value}" for key, value in parameters.model_dump().items())
    return SequenceData.from_splits(
        name,
        train=train,
        valid=valid,
        test=test,
        n_classes=n_tokens,
        n_tokens=n_tokens,
        origin=f"{origin}; {values}; seed {seed}",
        fresh=draw if parameters.fresh else None,
        further={label: make(np.random.default_rng([seed, i]), parameters.n_test) for i, (label, make) in others},
    )


def token_split(inputs: Ints, targets: Ints, unit: str = "") -> Split:
    """The split of these arrays of integers."""
    return Split(torch.from_numpy(inputs), torch.from_numpy(targets), unit=unit)


def distinct(rng: np.random.Generator, rows: int, count: int, below: int) -> Ints:
    """`count` different numbers of 0..below-1 in every row, each ordered choice equally likely: ``(rows, count)``.

    Floyd's method: the j-th number is drawn from 0..below-count+j, and is that bound itself if what was drawn is in
    the row already. That gives every set with equal probability, and a shuffle every order.
    """
    assert 0 <= count <= below
    chosen = np.empty((rows, count), dtype=np.int64)
    for j in range(count):
        bound = below - count + j
        drawn = rng.integers(0, bound + 1, rows)
        taken = (chosen[:, :j] == drawn[:, None]).any(1)
        chosen[:, j] = np.where(taken, bound, drawn)
    return rng.permuted(chosen, axis=1)
