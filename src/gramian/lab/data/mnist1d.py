"""MNIST-1D: digit-like signals of 40 steps, generated on the spot by the package of that name."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from gramian.lab.data.samples import Samples, import_extra
from gramian.lab.data.sequences import SequenceData

__all__ = ["load_mnist1d"]


def load_mnist1d(seed: int = 0) -> SequenceData:
    """The published MNIST-1D signals: 3500 / 500 / 1000, the validation set stratified out of the 4000 for training.

    Inputs are ``(n, 40, 1)`` float32 with the generator's own standardisation (mean and sd of all 5000). The signals
    and the test set are those of the generator's default arguments; only the validation set depends on `seed`.

    Raises
    ------
    DataError
        If the mnist1d package is not installed.

    References
    ----------
    S. Greydanus and D. Kobak, "Scaling Down Deep Learning with MNIST-1D", ICML 2024, PMLR 235:16404-16415.
    """
    # `get_dataset` of the same module downloads; `make_dataset` generates.
    generator = import_extra("mnist1d.data")
    with _global_random_state_kept():
        made = generator.make_dataset(generator.get_dataset_args())
    train, valid = Samples(made["x"][:, :, None], made["y"]).hold_out(500, np.random.default_rng(seed))
    test = Samples(made["x_test"][:, :, None], made["y_test"])
    return SequenceData.from_splits(
        "mnist1d",
        train=train.as_split(),
        valid=valid.as_split(),
        test=test.as_split(),
        n_classes=10,
        origin=f"mnist1d.data.make_dataset with default arguments, validation held out by seed {seed}",
    )


@contextmanager
def _global_random_state_kept() -> Iterator[None]:
    # The generator seeds Python's and numpy's global states (it does not know torch).
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
