"""Inference: a prompt at once and then step by step is the whole sequence."""

from __future__ import annotations

import pytest
import torch

from gramian.errors import ShapeError
from gramian.layers.lru import LRU


def example(d_state: int, d_model: int, dtype: torch.dtype = torch.float64) -> tuple[LRU, torch.Tensor]:
    torch.manual_seed(d_state)
    return LRU(d_model, d_state).to(dtype), torch.randn(3, 30, d_model, dtype=dtype)


@pytest.mark.parametrize(("d_state", "d_model"), [(1, 1), (5, 3), (40, 17)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
def test_prompt_and_steps_are_the_whole_sequence(
    d_state: int, d_model: int, dtype: torch.dtype, tolerance: float
) -> None:
    lru, u = example(d_state, d_model, dtype)
    whole, last = lru.scan(u)
    stepper = lru.stepper(3)
    outputs = [stepper.prefill(u[:, :20]), *(stepper.step(u_t)[:, None] for u_t in u[:, 20:].unbind(1))]
    torch.testing.assert_close(torch.cat(outputs, 1), whole.detach(), rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(stepper.state, last.detach(), rtol=tolerance, atol=tolerance)


def test_a_step_is_the_differentiable_step() -> None:
    lru, u = example(13, 8)
    state = torch.randn(3, 13, dtype=torch.complex128)
    expected, after = lru.step(u[:, 0], state)
    stepper = lru.stepper(3)
    stepper.state = state
    torch.testing.assert_close(stepper.step(u[:, 0]), expected.detach())
    torch.testing.assert_close(stepper.state, after.detach())
    assert not torch.equal(stepper.state, state)  # what was assigned is left alone


def test_a_stepper_keeps_the_parameters_it_was_made_with() -> None:
    lru, u = example(5, 3)
    stepper, other = lru.stepper(3), lru.stepper(3)
    first = stepper.step(u[:, 0])
    with torch.no_grad():
        for parameter in lru.parameters():
            parameter.add_(1.0)
    assert torch.equal(other.step(u[:, 0]), first)
    assert not torch.equal(lru.stepper(3).step(u[:, 0]), first)
    assert not first.requires_grad


def test_wrong_shapes_are_refused() -> None:
    lru, u = example(5, 3)
    stepper = lru.stepper(3)
    for call, wrong in ((stepper.step, u), (stepper.step, u[:2, 0]), (stepper.prefill, u[:, 0])):
        with pytest.raises(ShapeError, match="3 sequences of 3 channels"):
            call(wrong)
    with pytest.raises(ShapeError, match=r"\(batch, N\) = \(3, 5\)"):
        stepper.state = torch.zeros(3, 4, dtype=torch.complex128)
