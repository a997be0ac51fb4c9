"""What the families share: labelled arrays as read, the stratified hold-out, and standardised images."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gramian.errors import DataError
from gramian.lab.data.sequences import SequenceData, Split

__all__ = ["Samples", "image_data", "import_extra"]


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled sequences as they were read: values ``(n, length, d_input)``, labels ``(n,)`` integers."""

    values: NDArray[Any]
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: NDArray[np.intp]) -> Samples:
        """The samples at these indices, in this order: a copy."""
        return Samples(self.values[chosen], self.labels[chosen])

    def hold_out(self, size: int, rng: np.random.Generator) -> tuple[Samples, Samples]:
        """Two disjoint parts: the samples kept, and `size` held out with the class proportions of the whole.

        With the samples laid out class by class, shuffled within each class, every (n / size)-th is taken. That
        takes exactly `size`, and of a class with c samples c * size / n rounded down or up. Both parts come
        shuffled, so the first k samples of a part are a random sample of it.

        Raises
        ------
        DataError
            If either part would be empty.
        """
        n = len(self)
        if not 0 < size < n:
            raise DataError(f"cannot hold {size} of {n} samples out: both parts need at least one sample")
        shuffled = rng.permutation(n)
        by_class = shuffled[np.argsort(self.labels[shuffled], kind="stable")]
        taken_so_far = np.arange(n + 1) * size // n
        held = np.zeros(n, dtype=bool)
        held[by_class[np.diff(taken_so_far) == 1]] = True
        return self.take(shuffled[~held[shuffled]]), self.take(shuffled[held[shuffled]])

    def as_split(self) -> Split:
        """The tensors of these samples: inputs float32, targets int64."""
        inputs = torch.from_numpy(self.values.astype(np.float32, order="C", copy=False))
        return Split(inputs, torch.from_numpy(self.labels.astype(np.int64)))


def image_data(
    name: str, *, train: Samples, valid: Samples, test: Samples, n_classes: int, origin: str
) -> SequenceData:
    """Images of uint8 pixels as a task, each channel standardised by the training pixels' mean and sd.

    The scale of the pixels (255, or 16) cancels in (x - mean) / sd and so never appears.

    Raises
    ------
    DataError
        If a channel is constant over the training set.
    """
    # Sums of integers are exact in float64, so mean and sd do not depend on the order of summation: the digest in
    # `source` is the same on every machine. 255 squared still fits uint16.
    mean = train.values.mean(axis=(0, 1), dtype=np.float64)
    mean_square = np.square(train.values, dtype=np.uint16).mean(axis=(0, 1), dtype=np.float64)
    sd = np.sqrt(mean_square - mean**2)
    if not sd.all():
        raise DataError(f"'{name}' has a channel in which all training pixels are equal; it cannot be standardised")

    def standardised(samples: Samples) -> Split:
        inputs = samples.values.astype(np.float32, order="C")
        inputs -= mean.astype(np.float32)
        inputs /= sd.astype(np.float32)
        return Samples(inputs, samples.labels).as_split()

    return SequenceData.from_splits(
        name,
        train=standardised(train),
        valid=standardised(valid),
        test=standardised(test),
        n_classes=n_classes,
        origin=origin,
    )


def import_extra(module: str) -> ModuleType:
    """The module of an optional dependency, imported when a data set first needs it.

    Raises
    ------
    DataError
        If it cannot be imported; says what to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            f"this data set is read through {module}, which cannot be imported",
            str(error),
            'pip install "gramian[data]"',
        ) from error
