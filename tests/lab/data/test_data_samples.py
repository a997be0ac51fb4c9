"""The stratified hold-out and the standardisation that the families share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gramian.errors import DataError
from gramian.lab.data.samples import Samples, image_data, import_extra


def numbered_samples(labels: list[int]) -> Samples:
    return Samples(np.arange(len(labels))[:, None, None], np.array(labels))


@settings(deadline=None)
@given(labels=st.lists(st.integers(0, 4), min_size=2, max_size=60), seed=st.integers(0, 9), data=st.data())
def test_hold_out_is_a_partition_with_the_class_proportions_of_the_whole(
    labels: list[int], seed: int, data: st.DataObject
) -> None:
    n, size = len(labels), data.draw(st.integers(1, len(labels) - 1))
    kept, held = numbered_samples(labels).hold_out(size, np.random.default_rng(seed))
    assert len(held) == size
    assert sorted([*kept.values.ravel(), *held.values.ravel()]) == list(range(n))
    for label in set(labels):
        proportional = labels.count(label) * size / n
        assert abs((held.labels == label).sum() - proportional) < 1
    assert all(labels[number] == label for number, label in zip(held.values.ravel(), held.labels, strict=True))


def test_every_sample_of_a_class_is_held_out_equally_often() -> None:
    labels = [0] * 4 + [1] * 8
    trials = 3000
    rng = np.random.default_rng(0)
    times_held = np.zeros(12)
    for _ in range(trials):
        _, held = numbered_samples(labels).hold_out(3, rng)
        times_held[held.values.ravel()] += 1
    # Each is held out with probability 1/4; five standard deviations of a binomial count.
    assert np.abs(times_held - trials / 4).max() < 5 * np.sqrt(trials * 3 / 16)


def test_parts_do_not_come_sorted_by_class() -> None:
    kept, held = numbered_samples([0] * 50 + [1] * 50).hold_out(20, np.random.default_rng(0))
    assert set(kept.labels[:20]) == {0, 1}
    assert set(held.labels[:10]) == {0, 1}


@pytest.mark.parametrize("size", [0, 5, 6])
def test_holding_out_nothing_or_everything_is_refused(size: int) -> None:
    with pytest.raises(DataError, match=f"cannot hold {size} of 5 samples out"):
        numbered_samples([0, 1, 0, 1, 0]).hold_out(size, np.random.default_rng(0))


def random_images(rng: np.random.Generator, n: int) -> Samples:
    return Samples(rng.integers(0, 256, (n, 12, 2), dtype=np.uint8), np.arange(n) % 2)


def test_each_channel_is_standardised_by_the_training_pixels_alone() -> None:
    rng = np.random.default_rng(0)
    train, valid, test = (random_images(rng, n) for n in (20, 6, 8))
    brighter = Samples(np.maximum(test.values, 200), test.labels)
    made = image_data("made", train=train, valid=valid, test=brighter, n_classes=2, origin="random pixels")
    scaled = train.values / 255
    mean, sd = scaled.mean(axis=(0, 1)), scaled.std(axis=(0, 1))
    np.testing.assert_allclose(made.train.inputs, (scaled - mean) / sd, atol=1e-6)
    np.testing.assert_allclose(made.test.inputs, (brighter.values / 255 - mean) / sd, atol=1e-6)
    assert made.train.inputs.dtype == torch.float32
    assert (made.length, made.d_input) == (12, 2)


def test_a_constant_channel_cannot_be_standardised() -> None:
    rng = np.random.default_rng(0)
    train = random_images(rng, 4)
    train.values[:, :, 1] = 7
    with pytest.raises(DataError, match="all training pixels are equal"):
        image_data("made", train=train, valid=random_images(rng, 2), test=train, n_classes=2, origin="")


def test_a_missing_package_is_answered_with_the_extra_to_install() -> None:
    with pytest.raises(DataError, match=r'no_such_package_here(.|\n)*pip install "gramian\[data\]"'):
        import_extra("no_such_package_here.data")
