"""The order in which training walks through sequences: shuffled epochs of a split, or sequences drawn anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from gramian.errors import ConfigError, DataError
from gramian.lab.data.sequences import SequenceData, Split, require_positive

__all__ = ["Batches", "Stream", "training_batches"]


class Batches:
    """Shuffled training batches without a position: batch `step` is a function of (split, batch_size, seed, step).

    Every epoch is a fresh permutation drawn by a generator seeded with (seed, epoch), so a resumed run asks for the
    step it stopped at and gets, bit for bit, what it would have got; the global random state is neither read nor
    moved. The samples left over at the end of an epoch are dropped: all batches have the same size.

    Parameters
    ----------
    split
        What to draw from.
    batch_size
        Samples per batch, at most ``len(split)``.
    seed
        A non-negative integer.

    Raises
    ------
    DataError
        If the split holds less than one batch.
    ConfigError
        For a batch size below 1 or a negative seed.
    """

    def __init__(self, split: Split, batch_size: int, seed: int) -> None:
        require_positive(batch_size)
        if batch_size > len(split):
            raise DataError(
                f"batch_size={batch_size} is more than the {len(split)} samples of the split",
                "Incomplete batches are dropped, so an epoch would have no batch at all.",
                f"Use a batch_size of at most {len(split)}.",
            )
        _require_not_negative("seed", seed)
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self._latest: tuple[int, Tensor] = (0, self._permutation(0))

    @property
    def steps_per_epoch(self) -> int:
        """Batches between two shuffles."""
        return len(self.split) // self.batch_size

    def indices(self, step: int) -> Tensor:
        """The samples of batch `step`, ``(batch_size,)`` int64: for `split.lengths`, or whatever else goes along.

        Raises
        ------
        ConfigError
            For a negative step.
        """
        _require_not_negative("step", step)
        epoch, position = divmod(step, self.steps_per_epoch)
        # Only the speed depends on which epoch was asked for last: the permutation is the same when drawn anew.
        if self._latest[0] != epoch:
            self._latest = (epoch, self._permutation(epoch))
        return self._latest[1][position * self.batch_size : (position + 1) * self.batch_size]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The inputs ``(batch_size, length, ...)`` and targets ``(batch_size, ...)`` of `step`, counted over epochs.

        Raises
        ------
        ConfigError
            For a negative step.
        """
        chosen = self.indices(step)
        return self.split.inputs[chosen], self.split.targets[chosen]

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every sample of the split once, unshuffled: see `Split.in_order`."""
        return self.split.in_order(batch_size)

    def _permutation(self, epoch: int) -> Tensor:
        # SeedSequence mixes the pair, so that (seed 1, epoch 0) has nothing in common with (seed 0, epoch 1).
        mixed = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)
        generator = torch.Generator(device="cpu").manual_seed(int(mixed[0]))
        return torch.randperm(len(self.split), generator=generator, device="cpu")


class Stream:
    """Training batches of sequences nobody has seen: batch `step` is a function of (draw, batch_size, seed, step).

    Like `Batches` it has no position, so a resumed run gets what it would have got.

    Parameters
    ----------
    draw
        Makes so many sequences with a generator.
    batch_size
        Sequences per batch.
    seed
        A non-negative integer.

    Raises
    ------
    ConfigError
        For a batch size below 1 or a negative seed.
    """

    def __init__(self, draw: Callable[[np.random.Generator, int], Split], batch_size: int, seed: int) -> None:
        require_positive(batch_size)
        _require_not_negative("seed", seed)
        self.draw, self.batch_size, self.seed = draw, batch_size, seed

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The inputs ``(batch_size, length, ...)`` and targets ``(batch_size, ...)`` of `step`.

        Raises
        ------
        ConfigError
            For a negative step.
        """
        _require_not_negative("step", step)
        # Three numbers, where the splits of a generated data set have two: no batch is drawn like a split.
        drawn = self.draw(np.random.default_rng([self.seed, step, 1]), self.batch_size)
        return drawn.inputs, drawn.targets


def training_batches(data: SequenceData, batch_size: int, seed: int) -> Batches | Stream:
    """The training batches of `data`: from its training split, or drawn anew where it says how."""
    if data.fresh is not None:
        return Stream(data.fresh, batch_size, seed)
    return Batches(data.train, batch_size, seed)


def _require_not_negative(name: str, number: int) -> None:
    if number < 0:
        raise ConfigError(f"{name}={number} is negative; use 0 or more")
