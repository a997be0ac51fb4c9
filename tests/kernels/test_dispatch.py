"""The entrance to the recurrence: what it accepts, what it fills in, what it takes, and what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from recurrences import STATEFUL, random_recurrence

from gramian.errors import ConfigError, ShapeError
from gramian.kernels import BACKENDS, choice, diagonal_ssm, diagonal_ssm_pairs

CARRY = (*STATEFUL, "reference", "auto")


@pytest.mark.parametrize("backend", CARRY)
def test_a_missing_state_is_zero_and_a_missing_feed_through_too(backend: str) -> None:
    u, *rest, D, state = random_recurrence(batch=3, length=11, order=5, channels=4)
    filled = diagonal_ssm(u, *rest, torch.zeros_like(D), torch.zeros_like(state), backend=backend)
    for given, left_out in zip(filled, diagonal_ssm(u, *rest, backend=backend), strict=True):
        assert torch.equal(given, left_out)


@pytest.mark.parametrize("backend", ["chunked", "torch", "reference", "auto"])
def test_missing_lengths_are_full(backend: str) -> None:
    tensors = random_recurrence(batch=3, length=11, order=5, channels=4)
    given = diagonal_ssm(*tensors, torch.full((3,), 11), backend=backend)
    for one, two in zip(given, diagonal_ssm(*tensors, backend=backend), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_an_empty_sequence_has_no_output_and_leaves_the_state(backend: str) -> None:
    u, *rest, D, state = random_recurrence(batch=3, length=0, order=5, channels=4)
    if backend == "fft":
        y, final = diagonal_ssm(u, *rest, D, backend=backend, final_state=False)
        assert final is None
    else:
        y, final = diagonal_ssm(u, *rest, D, state, backend=backend)
        assert torch.equal(final, state)
    assert y.shape == (3, 0, 4)
    assert y.dtype == u.dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", CARRY)
def test_outputs_are_real_and_states_complex_in_the_precision_of_the_inputs(dtype: torch.dtype, backend: str) -> None:
    tensors = random_recurrence(batch=2, length=9, order=5, channels=4, dtype=dtype, seed=1)
    y, final = diagonal_ssm(*tensors, backend=backend)
    assert (y.shape, y.dtype) == ((2, 9, 4), dtype)
    assert (final.shape, final.dtype) == ((2, 5), tensors[-1].dtype)
    assert diagonal_ssm(*tensors, backend=backend, final_state=False)[1] is None


def test_the_recurrence_is_the_sum_over_the_impulse_response() -> None:
    u, decay, angle, B, C, D, state = random_recurrence(batch=2, length=6, order=4, channels=3)
    poles = torch.polar(torch.exp(-decay), angle)
    expected = torch.zeros(2, 6, 3, dtype=u.dtype)
    for t in range(6):
        x = poles ** (t + 1) * state
        for s in range(t + 1):
            x = x + poles ** (t - s) * (u[:, s].to(B.dtype) @ B.mT)
        expected[:, t] = (x @ C.mT).real + D * u[:, t]
    for backend in CARRY:
        y, final = diagonal_ssm(u, decay, angle, B, C, D, state, backend=backend)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(final, x, rtol=1e-12, atol=1e-12)


def test_pairs_of_reals_are_the_complex_numbers() -> None:
    u, decay, angle, B, C, D, state = random_recurrence(batch=2, length=6, order=4, channels=3)
    y, final = diagonal_ssm(u, decay, angle, B, C, D, state)
    pairs = torch.view_as_real(B.mT.contiguous()), torch.view_as_real(C), D, torch.view_as_real(state)
    same, end = diagonal_ssm_pairs(u, decay, angle, *pairs)
    assert torch.equal(same, y)
    assert torch.equal(torch.view_as_complex(end), final)


def test_an_unknown_backend_is_refused_with_the_nearest_known_one() -> None:
    recurrence = random_recurrence(batch=1, length=3, order=2, channels=1)
    with pytest.raises(ConfigError, match=r"chunkd.*auto, numba, .*chunked.*Did you mean 'chunked'"):
        diagonal_ssm(*recurrence[:5], backend="chunkd")


def test_a_convolution_with_a_state_is_refused() -> None:
    recurrence = random_recurrence(batch=1, length=3, order=2, channels=1)
    with pytest.raises(ConfigError, match="from a zero state"):
        diagonal_ssm(*recurrence, backend="fft")
    with pytest.raises(ConfigError, match="gives no final one"):
        diagonal_ssm(*recurrence[:5], backend="fft")


@pytest.mark.parametrize("backend", ["numba", "products"])
def test_lengths_are_refused_where_they_cannot_be_heeded(backend: str) -> None:
    recurrence = random_recurrence(batch=1, length=3, order=2, channels=1)
    with pytest.raises(ConfigError, match="with lengths"):
        diagonal_ssm(*recurrence, torch.tensor([2]), backend=backend)


@pytest.mark.parametrize("wrong", ["u without batch", "u of other channels", "C of other states"])
def test_shapes_that_do_not_fit_are_refused_by_name(wrong: str) -> None:
    u, decay, angle, B, C, _, _ = random_recurrence(batch=2, length=3, order=4, channels=2)
    if wrong == "u without batch":
        u = u[0]
    elif wrong == "u of other channels":
        u = u[..., :1]
    else:
        C = C[:, :3]
    with pytest.raises(ShapeError, match=r"were given(.|\n)*Needed: u \(batch, L, H_in\)"):
        diagonal_ssm(u, decay, angle, B, C)


def test_a_feed_through_needs_as_many_inputs_as_outputs() -> None:
    u, *rest, _ = random_recurrence(batch=2, length=3, order=4, channels=2, outputs=3)
    with pytest.raises(ShapeError, match=r"2 inputs and 3 outputs(.|\n)*Needed: D \(H,\)"):
        diagonal_ssm(u, *rest, torch.zeros(3, dtype=torch.float64))


# Which version is taken


def test_the_table_names_known_versions_and_says_how_it_was_measured() -> None:
    content: dict[str, Any] = json.loads(choice.TABLE.read_text())
    assert content["facts"]["command"] == "python -m gramian.kernels.measure_choice"
    assert {"torch", "threads", "cpu", "dtype"} <= set(content["facts"])
    for row in content["rows"]:
        assert set(row["seconds"]) <= set(BACKENDS)
        assert "numba" in row["seconds"]  # a version that can always run
        assert any(not choice.stateless(name) for name in row["seconds"])


def test_at_a_measured_shape_the_fastest_version_that_can_is_taken() -> None:
    for row in json.loads(choice.TABLE.read_text())["rows"]:
        u = torch.zeros(1).expand(row["batch"], row["length"], row["channels"])
        seconds = row["seconds"]
        taken = choice.fastest(u, row["order"], row["channels"], stateful=False, padded=False)
        assert seconds[taken] == min(seconds.values())
        taken = choice.fastest(u, row["order"], row["channels"], stateful=True, padded=False)
        assert seconds[taken] == min(time for name, time in seconds.items() if not choice.stateless(name))


def test_whatever_is_taken_can_run() -> None:
    for channels, outputs in ((3, 3), (3, 4)):
        given = random_recurrence(
            batch=2, length=5, order=3, channels=channels, outputs=None if channels == outputs else outputs
        )
        u, *rest, state = given
        for lengths in (None, torch.tensor([5, 2])):
            for start, final in ((None, False), (None, True), (state, False), (state, True)):
                D = rest[4] if len(rest) == 5 else None
                y, _ = diagonal_ssm(u, *rest[:4], D, start, lengths, final_state=final)
                assert y.isfinite().all()
