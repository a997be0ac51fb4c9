"""The 8x8 digits of scikit-learn."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from gramian.errors import DataError
from gramian.lab.data.digits import load_digits


def test_digits_are_split_1297_250_250_with_every_class_in_proportion() -> None:
    data = load_digits()
    assert [len(split) for split in data.splits.values()] == [1297, 250, 250]
    counts = np.array([split.targets.bincount(minlength=10).tolist() for split in data.splits.values()])
    proportional = np.outer([1297, 250, 250], counts.sum(axis=0)) / 1797
    # Each of two hold-outs rounds each class once.
    assert np.abs(counts - proportional).max() < 2
    assert (data.length, data.d_input, data.n_classes) == (64, 1, 10)


def test_the_three_splits_are_all_digits_of_scikit_learn_once() -> None:
    from sklearn.datasets import load_digits as bundled

    data, bundle = load_digits(), bundled()
    low, high = data.train.inputs.min(), data.train.inputs.max()
    recovered = torch.cat([split.inputs[:, :, 0] for split in data.splits.values()])
    pixels = ((recovered - low) / (high - low) * 16).round().numpy()
    labels = torch.cat([split.targets for split in data.splits.values()]).numpy()
    ours, theirs = np.c_[pixels, labels], np.c_[bundle.data, bundle.target]
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_the_split_depends_on_the_seed() -> None:
    first, again, other = load_digits(4), load_digits(4), load_digits(5)
    assert first.source == again.source
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.test.inputs, other.test.inputs)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r'sklearn\.datasets(.|\n)*pip install "gramian\[data\]"'):
        load_digits()
