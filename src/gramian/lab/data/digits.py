"""The 8x8 handwritten digits that come with scikit-learn, read pixel by pixel."""

from __future__ import annotations

import numpy as np

from gramian.lab.data.samples import Samples, image_data, import_extra
from gramian.lab.data.sequences import SequenceData

__all__ = ["load_digits"]


def load_digits(seed: int = 0) -> SequenceData:
    """1797 real digits as sequences of 64 pixels, row by row: 1297 / 250 / 250, stratified by class.

    Inputs are ``(n, 64, 1)`` float32, standardised by the training pixels; the split depends on `seed` only.

    Raises
    ------
    DataError
        If scikit-learn is not installed.

    References
    ----------
    E. Alpaydin and C. Kaynak, "Cascading Classifiers", Kybernetika, 1998, as cited in the description that
    scikit-learn bundles: "a copy of the test set of the UCI ML hand-written digits datasets".
    """
    bundle = import_extra("sklearn.datasets").load_digits()
    digits = Samples(bundle.data.astype(np.uint8)[:, :, None], bundle.target)
    rng = np.random.default_rng(seed)
    rest, test = digits.hold_out(250, rng)
    train, valid = rest.hold_out(250, rng)
    origin = "scikit-learn's load_digits, 1797 handwritten digits of 8x8 pixels (UCI optdigits test set)"
    return image_data(
        "digits", train=train, valid=valid, test=test, n_classes=10, origin=f"{origin}, split by seed {seed}"
    )
