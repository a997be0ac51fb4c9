"""From kept sequences to the signals of a layer, in batches, with random steps at which statistics are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gramian.layers.selective.signals import Signals, state_output

__all__ = ["Sample", "samples"]

_MOST_STEPS = 2048  # at which statistics are taken, over all sequences
_BATCH = 8  # sequences at a time, seen through one sketch of the output
_SKETCH = 8  # random directions in which the output is seen, where it has more


@dataclass(frozen=True, eq=False)
class Sample:
    """Some sequences: their signals, the steps to look at, and the loss's gradients there, ``(samples, d_out)``."""

    signals: Signals
    steps: Tensor
    gradient: Tensor | None

    @cached_property
    def target(self) -> Tensor:
        """What passes through the states of each group at these steps, ``(samples, groups, d_out)``."""
        return state_output(self.signals, self.steps)


def samples(
    of: Callable[[Tensor], Signals],
    sequences: Sequence[Tensor],
    gradients: Sequence[Tensor] | None = None,
    *,
    seed: int = 0,
    sketch: bool = False,
) -> Iterator[Sample]:
    """Signals of `sequences`, equal lengths together, with a bounded number of steps to look at in all.

    Steps are drawn at random, not at a fixed stride: tokens that alternate in kind would be seen half. With `sketch`,
    outputs are seen in a few random directions, others for every few sequences: sums of squares stay the same on
    average, at a fraction of the cost.
    """
    total = sum(len(x) for x in sequences)
    by_length: dict[int, list[int]] = {}
    for i, x in enumerate(sequences):
        if len(x):
            by_length.setdefault(len(x), []).append(i)
    generator = torch.Generator().manual_seed(seed)
    for length, members in by_length.items():
        count = min(length, max(1, round(length * _MOST_STEPS / total)))
        for start in range(0, len(members), _BATCH):
            chosen = members[start : start + _BATCH]
            steps = torch.randperm(length, generator=generator)[:count].sort().values
            gradient = None
            if gradients is not None:
                gradient = torch.stack([gradients[i] for i in chosen])[:, steps].flatten(0, 1).float()
            signals = of(torch.stack([sequences[i] for i in chosen])).float()
            yield Sample(signals.sketched(_SKETCH, generator) if sketch else signals, steps, gradient)
