"""Induction heads: a special token stands somewhere and again at the end; what followed it then, follows it now."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from gramian.errors import ConfigError
from gramian.lab.data.generated import generated_data, token_split
from gramian.lab.data.parameters import Generated
from gramian.lab.data.sequences import NOT_ASKED, SequenceData, Split

__all__ = ["InductionHeads", "draw_induction_heads", "load_induction_heads"]


class InductionHeads(Generated):
    """Parameters of the task.

    Parameters
    ----------
    length
        Steps in training, validation and test.
    vocab
        Tokens: the last one is the special one, the others are drawn at random.
    test_lengths
        Lengths of further test sets, called ``test-LENGTH``.
    """

    SCALES: ClassVar = {
        "tiny": {
            "length": 32,
            "vocab": 8,
            "test_lengths": [64],
            "n_train": 2_000,
            "n_valid": 200,
            "n_test": 400,
            "fresh": False,
        },
        "small": {
            "length": 128,
            "vocab": 16,
            "test_lengths": [256, 512],
            "n_train": 2_000,
            "n_valid": 500,
            "n_test": 1_000,
            "fresh": True,
        },
        "paper": {
            "length": 256,
            "vocab": 16,
            "test_lengths": [64, 128, 512, 1_024, 2_048, 4_096],
            "n_train": 2_000,
            "n_valid": 500,
            "n_test": 500,
            "fresh": True,
        },
    }

    length: int = Field(ge=4)
    vocab: int = Field(ge=3)
    test_lengths: list[int]

    @field_validator("test_lengths")
    @classmethod
    def _long_enough(cls, lengths: list[int]) -> list[int]:
        if any(length < 4 for length in lengths) or len(set(lengths)) < len(lengths):
            raise ConfigError(f"test_lengths={lengths} were given; needed: different lengths of at least 4")
        return lengths


def load_induction_heads(parameters: InductionHeads, seed: int = 0) -> SequenceData:
    """The task as tokens ``(n, length)``; a target is asked for at the last step.

    References
    ----------
    D. Y. Fu, T. Dao et al., "Hungry Hungry Hippos", arXiv 2212.14052, generator ``generate_induction_head`` in
    HazyResearch/safari, ``src/dataloaders/synthetics.py``, with one trigger and one token to copy; its training
    predicts every step, ours the asked one. Vocabulary 16, length 256, and test sets of up to a million steps are
    those of A. Gu and T. Dao, arXiv 2312.00752, section E.1 and its table of induction heads.
    """
    further = {
        f"test-{length}": partial(draw_induction_heads, parameters.model_copy(update={"length": length}))
        for length in parameters.test_lengths
    }
    return generated_data(
        "induction_heads",
        parameters,
        partial(draw_induction_heads, parameters),
        seed,
        n_tokens=parameters.vocab,
        origin="generated: induction heads (H3, arXiv 2212.14052; Mamba, arXiv 2312.00752, E.1)",
        further=further,
    )


def draw_induction_heads(parameters: InductionHeads, rng: np.random.Generator, n: int) -> Split:
    """`n` sequences; the special token stands with equal chance at each step that leaves room for its answer."""
    length, special = parameters.length, parameters.vocab - 1
    inputs = rng.integers(0, special, (n, length))
    at = rng.integers(0, length - 2, (n, 1))
    answers = np.take_along_axis(inputs, at + 1, axis=1)
    np.put_along_axis(inputs, at, np.int64(special), axis=1)
    inputs[:, -1] = special
    targets = np.full_like(inputs, NOT_ASKED)
    targets[:, -1:] = answers
    return token_split(inputs, targets)
