"""The entrance to the recurrence: what it accepts, what it fills in, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from recurrences import random_recurrence

from gramian.errors import ConfigError, ShapeError
from gramian.kernels import BACKENDS, diagonal_ssm


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_a_missing_state_is_zero_and_missing_lengths_are_full(backend: str) -> None:
    u, decay, angle, B, C, state = random_recurrence(batch=3, length=11, order=5, inputs=2, outputs=4)
    filled = diagonal_ssm(u, decay, angle, B, C, torch.zeros_like(state), torch.full((3,), 11), backend)
    for given, left_out in zip(filled, diagonal_ssm(u, decay, angle, B, C, backend=backend), strict=True):
        assert torch.equal(given, left_out)


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_an_empty_sequence_has_no_output_and_leaves_the_state(backend: str) -> None:
    u, decay, angle, B, C, state = random_recurrence(batch=3, length=0, order=5, inputs=2, outputs=4)
    y, final = diagonal_ssm(u, decay, angle, B, C, state, backend=backend)
    assert y.shape == (3, 0, 4)
    assert y.dtype == u.dtype
    assert torch.equal(final, state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_outputs_are_real_and_states_complex_in_the_precision_of_the_inputs(dtype: torch.dtype, backend: str) -> None:
    u, decay, angle, B, C, state = random_recurrence(
        batch=2, length=9, order=5, inputs=2, outputs=4, dtype=dtype, seed=1
    )
    y, final = diagonal_ssm(u, decay, angle, B, C, state, backend=backend)
    assert (y.shape, y.dtype) == ((2, 9, 4), dtype)
    assert (final.shape, final.dtype) == ((2, 5), state.dtype)


def test_the_recurrence_is_the_sum_over_the_impulse_response() -> None:
    u, decay, angle, B, C, state = random_recurrence(batch=2, length=6, order=4, inputs=2, outputs=3)
    poles = torch.polar(torch.exp(-decay), angle)
    expected = torch.zeros(2, 6, 3, dtype=u.dtype)
    for t in range(6):
        x = poles ** (t + 1) * state
        for s in range(t + 1):
            x = x + poles ** (t - s) * (u[:, s].to(B.dtype) @ B.mT)
        expected[:, t] = (x @ C.mT).real
    for backend in BACKENDS:
        y, final = diagonal_ssm(u, decay, angle, B, C, state, backend=backend)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(final, x, rtol=1e-12, atol=1e-12)


def test_an_unknown_backend_is_refused_with_the_nearest_known_one() -> None:
    recurrence = random_recurrence(batch=1, length=3, order=2, inputs=1, outputs=1)
    with pytest.raises(ConfigError, match=r"chunkd.*auto, chunked, reference.*Did you mean 'chunked'"):
        diagonal_ssm(*recurrence[:5], backend="chunkd")


@pytest.mark.parametrize("wrong", ["u without batch", "u of other channels", "C of other states"])
def test_shapes_that_do_not_fit_are_refused_by_name(wrong: str) -> None:
    u, decay, angle, B, C, _ = random_recurrence(batch=2, length=3, order=4, inputs=2, outputs=3)
    if wrong == "u without batch":
        u = u[0]
    elif wrong == "u of other channels":
        u = u[..., :1]
    else:
        C = C[:, :3]
    with pytest.raises(ShapeError, match=r"were given(.|\n)*Needed: u \(batch, L, H_in\)"):
        diagonal_ssm(u, decay, angle, B, C)
