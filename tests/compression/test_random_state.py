"""The random generators can be taken along and brought back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from small_models import through_a_file

from gramian.compression.random_state import random_state, set_random_state


def draw() -> tuple[float, ...]:
    """Numbers from every generator; of the normal ones an odd count, so that half a pair stays behind."""
    return (
        *torch.rand(3).tolist(),
        float(torch.randn(1)),
        float(np.random.rand()),  # noqa: NPY002 - the global generator
        float(np.random.randn()),  # noqa: NPY002
        random.random(),
        random.gauss(0, 1),
    )


@pytest.mark.parametrize("drawn_before", [0, 1])
def test_what_is_drawn_after_a_restore_is_what_was_drawn_after_the_save(drawn_before: int) -> None:
    for _ in range(drawn_before):
        draw()
    state = random_state()
    first, stored = draw(), through_a_file(state)
    for back in (state, stored, state):
        set_random_state(back)
        assert draw() == first
        draw()


def test_taking_the_state_draws_nothing() -> None:
    state = random_state()
    first = draw()
    set_random_state(state)
    random_state()
    assert draw() == first
