"""Labelled sequences in three splits, and the order in which training walks through them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gramian.errors import ConfigError, DataError

__all__ = ["Batches", "SequenceData", "Split"]


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Labelled sequences that belong together: a training, validation or test set.

    Parameters
    ----------
    inputs
        The sequences, ``(n, length, d_input)`` float32.
    targets
        The class of each, ``(n,)`` int64.
    lengths
        The steps of each sequence that are data and not padding, ``(n,)`` int64 in 1..length; None when all are.

    Raises
    ------
    DataError
        For another shape or dtype, or lengths outside 1..length.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None

    def __post_init__(self) -> None:
        _require(self.inputs, "inputs", torch.float32, "(n, length, d_input)", ndim=3)
        _require(self.targets, "targets", torch.int64, "(n,)", ndim=1, n=len(self))
        if self.lengths is not None:
            _require(self.lengths, "lengths", torch.int64, "(n,)", ndim=1, n=len(self))
            longest = self.inputs.shape[1]
            if not bool(((self.lengths >= 1) & (self.lengths <= longest)).all()):
                raise DataError(f"lengths must lie in 1..{longest}, the steps the inputs have")

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def __repr__(self) -> str:
        n, length, d_input = self.inputs.shape
        return f"Split(n={n}, length={length}, d_input={d_input})"

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every sample once, in stored order, for evaluation; the last batch may be smaller.

        Yields
        ------
        inputs, targets
            ``(b, length, d_input)`` float32 and ``(b,)`` int64 with ``b <= batch_size``: views, not copies.

        Raises
        ------
        ConfigError
            For a batch size below 1.
        """
        _require_positive(batch_size)
        starts = range(0, len(self), batch_size)
        return ((self.inputs[i : i + batch_size], self.targets[i : i + batch_size]) for i in starts)


@dataclass(frozen=True, eq=False)
class SequenceData:
    """A sequence classification task: three splits of one kind, and where they come from.

    Parameters
    ----------
    name
        The name `load_data` knows it by.
    train, valid, test
        The splits. Models are selected on `valid`; `test` is looked at once, so the two are never the same.
    d_input
        Channels per step.
    n_classes
        Targets lie in 0..n_classes-1.
    length
        Steps per sequence, padding included.
    source
        A sentence for the run record: where the data comes from, and the sha256 of its inputs and targets.

    Raises
    ------
    DataError
        For an empty split, splits that do not fit together, targets out of range, or a test set that is the
        validation set.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    d_input: int
    n_classes: int
    length: int
    source: str

    def __post_init__(self) -> None:
        for label, split in self.splits.items():
            self._require_consistent(label, split)
        if len({split.lengths is None for split in self.splits.values()}) > 1:
            raise DataError(f"'{self.name}' gives lengths for some splits only; give them for all or for none")
        if torch.equal(self.valid.inputs, self.test.inputs):
            raise DataError(
                f"'{self.name}' has the same inputs in validation and test",
                "A model selected on the test set has no honest test accuracy.",
                "Hold the validation set out of the training set.",
            )

    @classmethod
    def from_splits(
        cls, name: str, *, train: Split, valid: Split, test: Split, n_classes: int, origin: str
    ) -> SequenceData:
        """The task made of these splits; `origin` becomes `source` with the digest of the splits appended."""
        _, length, d_input = train.inputs.shape
        source = f"{origin}; sha256 {_sha256(train, valid, test)}"
        return cls(name, train, valid, test, d_input, n_classes, length, source)

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name, in the order train, valid, test."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

    def _require_consistent(self, label: str, split: Split) -> None:
        where = f"the {label} split of '{self.name}'"
        if len(split) == 0:
            raise DataError(f"{where} is empty")
        shape = tuple(split.inputs.shape[1:])
        if shape != (self.length, self.d_input):
            raise DataError(f"{where} has samples of shape {shape}; expected {(self.length, self.d_input)}")
        low, high = int(split.targets.min()), int(split.targets.max())
        if low < 0 or high >= self.n_classes:
            raise DataError(f"{where} has targets in {low}..{high}; expected 0..{self.n_classes - 1}")


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
        _require_positive(batch_size)
        if batch_size > len(split):
            raise DataError(
                f"batch_size={batch_size} is more than the {len(split)} samples of the split",
                "Incomplete batches are dropped, so an epoch would have no batch at all.",
                f"Use a batch_size of at most {len(split)}.",
            )
        if seed < 0:
            raise ConfigError(f"seed={seed} is negative; use 0 or more")
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
        if step < 0:
            raise ConfigError(f"step={step} is negative; steps count from 0, over all epochs")
        epoch, position = divmod(step, self.steps_per_epoch)
        # Only the speed depends on which epoch was asked for last: the permutation is the same when drawn anew.
        if self._latest[0] != epoch:
            self._latest = (epoch, self._permutation(epoch))
        return self._latest[1][position * self.batch_size : (position + 1) * self.batch_size]

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """The inputs ``(batch_size, length, d_input)`` and targets ``(batch_size,)`` of `step`, counted over epochs.

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


def _require(tensor: Tensor, name: str, dtype: torch.dtype, shape: str, *, ndim: int, n: int | None = None) -> None:
    if tensor.ndim != ndim or tensor.dtype != dtype or (n is not None and len(tensor) != n):
        expected = f"{shape} {dtype}" + ("" if n is None else f" with n={n}")
        raise DataError(f"{name} are {tuple(tensor.shape)} {tensor.dtype}; expected {expected}")


def _require_positive(batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} is not a number of samples; use 1 or more")


def _sha256(*splits: Split) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(np.ascontiguousarray(split.inputs.numpy(force=True)).data)
        digest.update(np.ascontiguousarray(split.targets.numpy(force=True)).data)
    return digest.hexdigest()
