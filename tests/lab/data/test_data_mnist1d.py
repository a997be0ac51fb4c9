"""MNIST-1D, generated without touching anyone's random numbers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from gramian.lab.data import DATASETS, SequenceData, load_data


@pytest.fixture(scope="module")
def loaded() -> tuple[SequenceData, dict[str, Any]]:
    """The data, and what the generator returned when it was loaded with no more than its default arguments."""
    import mnist1d.data

    generate, returned = mnist1d.data.make_dataset, {}

    def recording(arguments: Any) -> dict[str, Any]:
        assert vars(arguments) == mnist1d.data.get_dataset_args(as_dict=True)
        returned.update(generate(arguments))
        return returned

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist1d.data, "make_dataset", recording)
        return load_data("mnist1d"), returned


def test_mnist1d_is_split_3500_500_1000_with_validation_in_proportion(loaded: tuple[SequenceData, Any]) -> None:
    data, info = loaded[0], DATASETS["mnist1d"]
    assert [len(split) for split in data.splits.values()] == [3500, 500, 1000]
    assert (data.length, data.d_input, data.n_classes) == (info.length, info.d_input, info.n_classes) == (40, 1, 10)
    train, valid = (split.targets.bincount(minlength=10) for split in (data.train, data.valid))
    assert ((train + valid) / 8 - valid).abs().max() < 1


def test_the_signals_are_the_generators_own(loaded: tuple[SequenceData, Any]) -> None:
    data, published = loaded
    assert np.array_equal(data.test.inputs[:, :, 0].numpy(), published["x_test"].astype(np.float32))
    assert data.test.targets.tolist() == published["y_test"].tolist()
    ours = {
        (signal.tobytes(), target)
        for split in (data.train, data.valid)
        for signal, target in zip(split.inputs.numpy(), split.targets.tolist(), strict=True)
    }
    theirs = zip(published["x"].astype(np.float32), published["y"].tolist(), strict=True)
    assert ours == {(signal.tobytes(), target) for signal, target in theirs}


def global_states() -> tuple[object, ...]:
    _, keys, *rest = np.random.get_state()  # noqa: NPY002
    return random.getstate(), keys.tobytes(), rest, torch.get_rng_state().tolist()


def test_global_random_states_are_left_as_found_and_only_validation_follows_the_seed(
    loaded: tuple[SequenceData, Any],
) -> None:
    # The generator always leaves the same state behind, and the fixture has run it: move on from there.
    random.random(), np.random.random(1000)  # noqa: NPY002
    before = global_states()
    other = load_data("mnist1d", seed=1)
    assert global_states() == before
    data = loaded[0]
    assert torch.equal(other.test.inputs, data.test.inputs)
    assert not torch.equal(other.valid.inputs, data.valid.inputs)
