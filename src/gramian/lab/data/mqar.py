"""Multi-query associative recall (MQAR): keys with their values first, then the keys again, in another order."""

from __future__ import annotations

from functools import partial
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from gramian.errors import ConfigError
from gramian.lab.data.generated import distinct, generated_data, token_split
from gramian.lab.data.parameters import Generated
from gramian.lab.data.sequences import NOT_ASKED, SequenceData, Split

__all__ = ["Mqar", "draw_mqar", "load_mqar"]


class Mqar(Generated):
    """Parameters of the task.

    Parameters
    ----------
    length
        Steps, even.
    pairs
        Keys with a value, all different, each asked for once.
    vocab
        Tokens: 0 fills, the rest of the lower half are keys, the upper half are values.
    power
        How queries follow their pairs: the chance of the g-th place goes as ``g ** (power - 1)``; 1 is uniform.
    fill
        What stands between the queries: token 0, or random tokens, which can be keys.
    """

    SCALES: ClassVar = {
        "tiny": {
            "length": 32,
            "pairs": 4,
            "vocab": 64,
            "n_train": 2_000,
            "n_valid": 200,
            "n_test": 400,
            "fresh": False,
        },
        "small": {
            "length": 64,
            "pairs": 8,
            "vocab": 256,
            "n_train": 20_000,
            "n_valid": 500,
            "n_test": 2_000,
            "fresh": True,
        },
        "paper": {
            "length": 128,
            "pairs": 8,
            "vocab": 8_192,
            "n_train": 100_000,
            "n_valid": 3_000,
            "n_test": 3_000,
            "fresh": False,
        },
    }

    length: int = Field(ge=4)
    pairs: int = Field(ge=1)
    vocab: int = Field(ge=4)
    power: float = Field(0.01, gt=0)
    fill: Literal["zero", "random"] = "zero"

    @model_validator(mode="after")
    def _fit_together(self) -> Mqar:
        if self.length % 2 or 4 * self.pairs > self.length:
            raise ConfigError(
                f"pairs={self.pairs} do not fit in length={self.length}; needed: an even length of at least "
                f"{4 * self.pairs}, for pairs take half of it and queries stand at even places of the rest"
            )
        if self.pairs > self.vocab // 2 - 1:
            raise ConfigError(
                f"vocab={self.vocab} is too small for pairs={self.pairs} different keys; needed: at least "
                f"{2 * self.pairs + 2}"
            )
        return self


def load_mqar(parameters: Mqar, seed: int = 0) -> SequenceData:
    """The task as tokens ``(n, length)``; targets are values at the steps that ask for a key again.

    References
    ----------
    S. Arora, S. Eyuboglu et al., "Zoology: Measuring and Improving Recall in Efficient Language Models",
    arXiv 2312.04927. The distribution is that of ``_mqar`` in HazyResearch/zoology, ``zoology/data/
    associative_recall.py``, and ``paper`` one of the difficulties of its figure 2 (``iclr24_zoology_figure2/
    configs.py``: lengths 64, 128, 256 with 4, 8, 16 pairs, ``random_non_queries=False``); the test set of the
    published runs is what models are selected on there, here it is not.
    """
    draw = partial(draw_mqar, parameters)
    origin = "generated: multi-query associative recall (Zoology, arXiv 2312.04927)"
    return generated_data("mqar", parameters, draw, seed, n_tokens=parameters.vocab, origin=origin)


def draw_mqar(parameters: Mqar, rng: np.random.Generator, n: int) -> Split:
    """`n` sequences.

    Keys and values fill the first ``2 pairs`` steps in turns. Of the steps after them, every second can hold a
    query; places are drawn without replacement, one key after the other, with chances that fall with the place.
    """
    pairs, context = parameters.pairs, 2 * parameters.pairs
    first_value = parameters.vocab // 2
    keys = 1 + distinct(rng, n, pairs, first_value - 1)
    values = first_value + distinct(rng, n, pairs, parameters.vocab - first_value)
    inputs = np.zeros((n, parameters.length), dtype=np.int64)
    if parameters.fill == "random":
        inputs[:] = rng.integers(0, parameters.vocab, inputs.shape)
    inputs[:, 0:context:2], inputs[:, 1:context:2] = keys, values
    places = (parameters.length - context) // 2
    # The order of log-chances with Gumbel noise is that of successive draws without replacement.
    chances = (parameters.power - 1) * np.log(np.arange(1, places + 1))
    order = np.argsort(-(chances + rng.gumbel(size=(n, places))), axis=1, kind="stable")
    at = context + 2 * order[:, :pairs]
    targets = np.full_like(inputs, NOT_ASKED)
    np.put_along_axis(inputs, at, keys, axis=1)
    np.put_along_axis(targets, at, values, axis=1)
    return token_split(inputs, targets)
