"""One step in place is one step of the scan."""

from __future__ import annotations

import pytest
import torch
from selective_sequences import OPTIONAL, random_sequences, run

from gramian.errors import ShapeError
from gramian.kernels import selective_step


@pytest.mark.parametrize("left_out", [(), *((name,) for name in OPTIONAL[:-1]), OPTIONAL[:-1]], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (3, 1, 13, 3, 1), (2, 1, 40, 16, 2), (1, 1, 6, 25, 3)], ids=str)
def test_a_step_is_a_step_of_the_scan(shape: tuple[int, int, int, int, int], left_out: tuple[str, ...]) -> None:
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        for softplus in (True, False):
            tensors = {n: t for n, t in random_sequences(shape, dtype).items() if n not in left_out}
            tensors.update({n: tensors[n].abs() for n in ("dt", "dt_bias") if n in tensors})  # nothing grows
            y, final = run(tensors, "reference", softplus)
            now = {n: t[:, 0] if n in ("u", "dt", "B", "C", "z") else t for n, t in tensors.items()}
            state = now.pop("state").clone()
            found = selective_step(**now, state=state, softplus=softplus)
            torch.testing.assert_close(found, y[:, 0], rtol=tolerance, atol=10 * tolerance)
            torch.testing.assert_close(state, final, rtol=tolerance, atol=10 * tolerance)


def test_half_precision_is_computed_in_the_precision_of_the_state() -> None:
    tensors = {n: t[:, 0] if t.ndim > 2 else t for n, t in random_sequences((2, 1, 5, 3, 1), torch.bfloat16).items()}
    state = torch.zeros(2, 5, 3)
    tensors.pop("state")
    y = selective_step(**tensors, state=state)
    wide = selective_step(**{n: t.float() for n, t in tensors.items()}, state=torch.zeros(2, 5, 3))
    assert torch.equal(y, wide.bfloat16())


def test_nothing_in_nothing_out() -> None:
    for batch, channels, order in ((0, 3, 2), (2, 0, 2), (2, 3, 0)):
        u, B = torch.ones(batch, channels), torch.ones(batch, order)
        y = selective_step(u, u, torch.ones(channels, order), B, B, state=torch.zeros(batch, channels, order))
        assert torch.equal(y, torch.zeros(batch, channels))


def test_a_state_that_cannot_be_changed_in_place_is_refused() -> None:
    u, A, B = torch.ones(2, 4), -torch.ones(4, 3), torch.ones(2, 3)
    for state in (torch.zeros(2, 4, 2), torch.zeros(2, 3, 4).mT, torch.zeros(2, 4, 3).half()):
        with pytest.raises(ShapeError, match=r"Needed: state \(2, 4, 3\), float32 or float64, contiguous"):
            selective_step(u, u, A, B, B, state=state)
