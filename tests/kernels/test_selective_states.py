"""States at a few steps are those of the selective recurrence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gramian.errors import ConfigError, ShapeError
from gramian.kernels import STATES_BACKENDS, selective_states

# batch, L, groups, P, N: remainders of vectors of states, of registers, of channels of a task
SHAPES = ((1, 1, 1, 1, 1), (3, 2, 1, 13, 3), (2, 20, 2, 16, 64), (1, 63, 1, 17, 129), (2, 9, 3, 40, 12))
BOTH = pytest.mark.parametrize("backend", STATES_BACKENDS)


def random_states(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype = torch.float64, **without: None
) -> dict[str, Tensor | None]:
    """All tensors by name, seeded."""
    batch, length, groups, width, order = shape
    g = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=g, dtype=torch.float64)

    tensors = {
        "written": normal(batch, length, groups, width),
        "dt": normal(batch, length, groups, width).abs(),
        "A": -torch.exp(2 * normal(groups, width, order)),
        "B": normal(batch, length, groups, order),
        "log_gate": -normal(batch, length, groups, order).abs(),
        "state": normal(batch, groups, width, order),
    }
    return {name: t.to(dtype) for name, t in tensors.items()} | without


def some_steps(length: int) -> Tensor:
    return torch.randperm(length, generator=torch.Generator().manual_seed(1))[: max(1, length // 2)].sort().values


def run(tensors: dict[str, Tensor | None], steps: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return selective_states(**tensors, steps=steps, backend=backend)  # type: ignore[arg-type]


@BOTH
def test_it_is_the_recurrence(backend: str) -> None:
    t = random_states((2, 4, 2, 3, 2))
    states, last = run(t, torch.arange(4), backend)
    for g in range(2):
        for p in range(3):
            h = t["state"][:, g, p]  # type: ignore[index]
            for k in range(4):
                decay = torch.exp(t["dt"][:, k, g, p, None] * t["A"][g, p] + t["log_gate"][:, k, g])  # type: ignore[index]
                h = decay * h + t["written"][:, k, g, p, None] * t["B"][:, k, g]  # type: ignore[index]
                torch.testing.assert_close(states[:, k, g, p], h)
            torch.testing.assert_close(last[:, g, p], h)


@pytest.mark.parametrize(
    "without", [{}, {"log_gate": None}, {"state": None}, {"log_gate": None, "state": None}], ids=str
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_loops_are_the_loop_over_time(shape: tuple[int, int, int, int, int], without: dict[str, None]) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        tensors, steps = random_states(shape, dtype, **without), some_steps(shape[1])
        slow, fast = run(tensors, steps, "reference"), run(tensors, steps, "numba")
        for found, expected in zip(fast, slow, strict=True):
            assert found.dtype == dtype
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=10 * tolerance)


@BOTH
def test_parts_of_a_sequence_go_on_from_each_other(backend: str) -> None:
    t = random_states((2, 20, 1, 5, 7))
    whole, last = run(t, torch.arange(20), backend)
    cut = {n: x[:, :8] if n in ("written", "dt", "B", "log_gate") else x for n, x in t.items()}  # type: ignore[index]
    rest = {n: x[:, 8:] if n in ("written", "dt", "B", "log_gate") else x for n, x in t.items()}  # type: ignore[index]
    first, between = run(cut, torch.arange(8), backend)
    second, end = run(rest | {"state": between}, torch.arange(12), backend)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(end, last)


def test_the_state_that_was_given_stays_and_threads_change_nothing() -> None:
    t, steps = random_states((3, 30, 2, 33, 40), torch.float32), some_steps(30)
    before, threads = t["state"].clone(), torch.get_num_threads()  # type: ignore[union-attr]
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(run(t, steps, "numba"))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert torch.equal(t["state"], before)  # type: ignore[arg-type]


def test_no_steps_no_channels_and_no_states_are_empty() -> None:
    for shape in ((0, 3, 1, 2, 2), (2, 3, 1, 0, 2), (2, 3, 1, 2, 0)):
        batch, _, groups, width, order = shape
        states, last = run(random_states(shape), torch.arange(2), "auto")
        assert states.shape == (batch, 2, groups, width, order)
        assert last.shape == (batch, groups, width, order)
    states, last = run(random_states((2, 0, 1, 3, 4)), torch.arange(0), "auto")
    assert states.shape == (2, 0, 1, 3, 4)
    assert torch.equal(last, random_states((2, 0, 1, 3, 4))["state"])  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused() -> None:
    t = random_states((2, 5, 1, 3, 4))
    for name in ("dt", "B", "log_gate", "state"):
        with pytest.raises(ShapeError, match=f"Needed: {name} "):
            run(t | {name: t[name][..., :-1]}, torch.arange(5), "auto")  # type: ignore[index]
    with pytest.raises(ShapeError, match=r"written .* and A"):
        run(t | {"A": t["A"][..., 0]}, torch.arange(5), "auto")  # type: ignore[index]
    for steps in ([5], [-1], [2, 1], [1, 1], [[1]]):
        with pytest.raises(ShapeError, match="ascending indices"):
            run(t, torch.tensor(steps), "auto")
    with pytest.raises(ConfigError, match="Did you mean 'numba'"):
        run(t, torch.arange(5), "nunba")
    with pytest.raises(ConfigError, match="computes on the CPU"):
        selective_states(*(torch.empty(1, 1, 1, 1, device="meta"),) * 2, torch.empty(1, 1, 1, device="meta"),
                         torch.empty(1, 1, 1, 1, device="meta"), torch.arange(1), backend="numba")  # fmt: skip
