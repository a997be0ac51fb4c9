"""Selective copying: a few tokens scattered among many that mean nothing, to be repeated in their order at the end."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
from pydantic import Field, model_validator

from gramian.errors import ConfigError
from gramian.lab.data.generated import generated_data, token_split
from gramian.lab.data.parameters import Generated
from gramian.lab.data.sequences import NOT_ASKED, SequenceData, Split

__all__ = ["SelectiveCopying", "draw_selective_copying", "load_selective_copying"]


class SelectiveCopying(Generated):
    """Parameters of the task.

    Parameters
    ----------
    length
        Steps among which the tokens are scattered; a sequence has `memorize` steps more, at which they are asked for.
    memorize
        Tokens to repeat.
    vocab
        Tokens: 0 means nothing, the last one asks, those between are to be repeated.
    """

    SCALES: ClassVar = {
        "tiny": {
            "length": 32,
            "memorize": 4,
            "vocab": 8,
            "n_train": 2_000,
            "n_valid": 200,
            "n_test": 400,
            "fresh": False,
        },
        "small": {
            "length": 256,
            "memorize": 16,
            "vocab": 16,
            "n_train": 2_000,
            "n_valid": 500,
            "n_test": 1_000,
            "fresh": True,
        },
        "paper": {
            "length": 4_096,
            "memorize": 16,
            "vocab": 16,
            "n_train": 1_000,
            "n_valid": 500,
            "n_test": 1_000,
            "fresh": True,
        },
    }

    length: int = Field(ge=1)
    memorize: int = Field(ge=1)
    vocab: int = Field(ge=3)

    @model_validator(mode="after")
    def _fit_together(self) -> SelectiveCopying:
        if self.memorize > self.length:
            raise ConfigError(f"memorize={self.memorize} tokens do not fit in length={self.length} steps")
        return self


def load_selective_copying(parameters: SelectiveCopying, seed: int = 0) -> SequenceData:
    """The task as tokens ``(n, length + memorize)``; targets are asked for at the last `memorize` steps.

    References
    ----------
    A. Gu and T. Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", arXiv 2312.00752, section
    E.1: length 4096, 16 possible tokens with the one for noise, 16 tokens to memorise. Where the tokens stand and
    that a marker asks for them is as in ``torch_copying_data(variable=True)`` of state-spaces/s4,
    ``src/dataloaders/datasets/copying.py``.
    """
    draw = partial(draw_selective_copying, parameters)
    origin = "generated: selective copying (Mamba, arXiv 2312.00752, E.1)"
    return generated_data("selective_copying", parameters, draw, seed, n_tokens=parameters.vocab, origin=origin)


def draw_selective_copying(parameters: SelectiveCopying, rng: np.random.Generator, n: int) -> Split:
    """`n` sequences; every choice of places is equally likely."""
    length, count = parameters.length, parameters.memorize
    tokens = rng.integers(1, parameters.vocab - 1, (n, count))
    at = np.sort(rng.random((n, length)).argpartition(count - 1, axis=1)[:, :count], axis=1)
    inputs = np.zeros((n, length + count), dtype=np.int64)
    np.put_along_axis(inputs, at, tokens, axis=1)
    inputs[:, length:] = parameters.vocab - 1
    targets = np.full_like(inputs, NOT_ASKED)
    targets[:, length:] = tokens
    return token_split(inputs, targets)
