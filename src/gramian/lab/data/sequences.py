"""Labelled sequences in three splits: numbers or tokens, with one label a sequence or one a step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gramian.errors import ConfigError, DataError

__all__ = ["NOT_ASKED", "SequenceData", "Split", "require_positive"]

NOT_ASKED = -100  # the target of a step whose prediction counts for nothing, as torch's losses have it


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Labelled sequences that belong together: a training, validation or test set.

    Parameters
    ----------
    inputs
        The sequences: ``(n, length, d_input)`` float32, or tokens, ``(n, length)`` int64.
    targets
        The class of each, ``(n,)`` int64; or of each of its steps, ``(n, length)`` int64, `NOT_ASKED` (-100) where
        no prediction is asked for.
    lengths
        The steps of each sequence that are data and not padding, ``(n,)`` int64 in 1..length; None when all are.
    unit
        What a step's target is a piece of, if these are texts ("byte", say): the loss is given in bits per unit too.

    Raises
    ------
    DataError
        For another shape or dtype, lengths outside 1..length, or a sequence in which nothing is asked.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        if self.inputs.dtype != torch.int64:
            _require(self.inputs, "inputs", torch.float32, "(n, length, d_input)", ndim=3)
        _require(self.inputs, "inputs", self.inputs.dtype, "(n, length)", ndim=3 - self.tokens)
        if self.stepwise:
            shape = tuple(self.inputs.shape[:2])
            if self.targets.shape != shape:
                raise DataError(f"targets are {tuple(self.targets.shape)}; expected one a step, {shape}")
            if not bool((self.targets != NOT_ASKED).any(1).all()):
                raise DataError("there are sequences none of whose steps has a target")
        _require(self.targets, "targets", torch.int64, "(n,)", ndim=1 + self.stepwise, n=len(self))
        if self.lengths is not None:
            _require(self.lengths, "lengths", torch.int64, "(n,)", ndim=1, n=len(self))
            longest = self.inputs.shape[1]
            if not bool(((self.lengths >= 1) & (self.lengths <= longest)).all()):
                raise DataError(f"lengths must lie in 1..{longest}, the steps the inputs have")

    @property
    def tokens(self) -> bool:
        """Whether the inputs are tokens, and not numbers."""
        return self.inputs.dtype == torch.int64

    @property
    def stepwise(self) -> bool:
        """Whether there is a target for every step, and not one for the whole sequence."""
        return self.targets.ndim == 2

    @property
    def asked(self) -> Tensor:
        """All targets of which a prediction is asked for, ``(m,)``."""
        return self.targets[self.targets != NOT_ASKED] if self.stepwise else self.targets

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def __repr__(self) -> str:
        n, length, *d_input = self.inputs.shape
        kind = "tokens" if self.tokens else f"d_input={d_input[0]}"
        return f"Split(n={n}, length={length}, {kind})"

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every sample once, in stored order, for evaluation; the last batch may be smaller.

        Yields
        ------
        inputs, targets
            ``(b, length, ...)`` and ``(b, ...)`` with ``b <= batch_size``: views, not copies.

        Raises
        ------
        ConfigError
            For a batch size below 1.
        """
        require_positive(batch_size)
        starts = range(0, len(self), batch_size)
        return ((self.inputs[i : i + batch_size], self.targets[i : i + batch_size]) for i in starts)


@dataclass(frozen=True, eq=False)
class SequenceData:
    """A task on sequences: three splits of one kind, and where they come from.

    Parameters
    ----------
    name
        The name `load_data` knows it by.
    train, valid, test
        The splits. Models are selected on `valid`; `test` is looked at once, so the two are never the same.
    d_input
        Channels per step, or how many tokens there are.
    n_classes
        Targets lie in 0..n_classes-1.
    length
        Steps per sequence, padding included.
    source
        A sentence for the run record: where the data comes from, and the sha256 of its inputs and targets.
    fresh
        Draws sequences for training, so many with a generator, that are in no split; None: training has its split.
    further
        Test sets of other lengths, by name.

    Raises
    ------
    DataError
        For an empty split, splits that do not fit together, tokens or targets out of range, or a test set that is
        the validation set.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    d_input: int
    n_classes: int
    length: int
    source: str
    fresh: Callable[[np.random.Generator, int], Split] | None = None
    further: Mapping[str, Split] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for label, split in self.splits.items():
            self._require_consistent(label, split, self.length)
        for label, split in self.further.items():
            self._require_consistent(label, split, split.inputs.shape[1])
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
        cls,
        name: str,
        *,
        train: Split,
        valid: Split,
        test: Split,
        n_classes: int,
        origin: str,
        n_tokens: int | None = None,
        **more: Any,
    ) -> SequenceData:
        """The task made of these splits; `origin` becomes `source` with the digest of the splits appended.

        `n_tokens` is needed where the inputs are tokens; `more` are ``fresh`` and ``further``.
        """
        length = train.inputs.shape[1]
        d_input = train.inputs.shape[2] if n_tokens is None else n_tokens
        source = f"{origin}; sha256 {_sha256(train, valid, test)}"
        return cls(name, train, valid, test, d_input, n_classes, length, source, **more)

    @property
    def tokens(self) -> bool:
        """Whether the inputs are tokens, and not numbers."""
        return self.train.tokens

    @property
    def head(self) -> Literal["classification", "next_token"]:
        """What a model is asked for: one class a sequence, or one a step."""
        return "next_token" if self.train.stepwise else "classification"

    @property
    def splits(self) -> dict[str, Split]:
        """The three splits by name, in the order train, valid, test."""
        return {"train": self.train, "valid": self.valid, "test": self.test}

    def _require_consistent(self, label: str, split: Split, length: int) -> None:
        where = f"the {label} split of '{self.name}'"
        if len(split) == 0:
            raise DataError(f"{where} is empty")
        shape, expected = tuple(split.inputs.shape[1:]), (length,) if self.tokens else (length, self.d_input)
        if shape != expected:
            raise DataError(f"{where} has samples of shape {shape}; expected {expected}")
        if split.tokens:
            _require_range(split.inputs, f"{where} has tokens", self.d_input)
        _require_range(split.asked, f"{where} has targets", self.n_classes)


def _require_range(values: Tensor, what: str, count: int) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= count:
        raise DataError(f"{what} in {low}..{high}; expected 0..{count - 1}")


def _require(tensor: Tensor, name: str, dtype: torch.dtype, shape: str, *, ndim: int, n: int | None = None) -> None:
    if tensor.ndim != ndim or tensor.dtype != dtype or (n is not None and len(tensor) != n):
        expected = f"{shape} {dtype}" + ("" if n is None else f" with n={n}")
        raise DataError(f"{name} are {tuple(tensor.shape)} {tensor.dtype}; expected {expected}")


def require_positive(batch_size: int) -> None:
    """A `ConfigError` for a batch size below 1."""
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} is not a number of samples; use 1 or more")


def _sha256(*splits: Split) -> str:
    digest = hashlib.sha256()
    for split in splits:
        digest.update(np.ascontiguousarray(split.inputs.numpy(force=True)).data)
        digest.update(np.ascontiguousarray(split.targets.numpy(force=True)).data)
    return digest.hexdigest()
