"""The Triton scan against its specification. For Triton's interpreter, which is chosen when Triton is imported:
`test_scan_triton.py` runs this file in a process of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gramian.kernels import scan_triton
from gramian.kernels.scan import scan

TOLERANCE = {torch.complex128: 1e-12, torch.complex64: 1e-5}
NAMES = ("states", "d x", "d poles", "d state")


def random_scan(*, batch: int, length: int, order: int, dtype: torch.dtype = torch.complex128) -> tuple[Tensor, ...]:
    """``x, poles, state``, from poles that forget at once to poles that hardly forget, seeded."""
    g = torch.Generator().manual_seed(0)
    decay = 10 ** (torch.rand(order, generator=g, dtype=torch.float64) * 4 - 3.5)  # 3e-4 to 3
    angle = torch.rand(order, generator=g, dtype=torch.float64) * 2 * torch.pi
    x, state = (
        torch.randn(shape, generator=g, dtype=torch.complex128) for shape in ((batch, length, order), (batch, order))
    )
    return tuple(t.to(dtype) for t in (x, torch.polar((-decay).exp(), angle), state))


def results(backend: str, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The states, and the gradients of a random linear functional of them for every tensor."""
    leaves = tuple(t.detach().requires_grad_() for t in tensors)
    states = scan(*leaves, backend=backend)
    weight = torch.randn(states.shape, generator=torch.Generator().manual_seed(99), dtype=torch.complex128)
    return states.detach(), *torch.autograd.grad((states * weight.to(states.dtype)).real.sum(), leaves)


def assert_is_the_specification(tensors: tuple[Tensor, ...]) -> None:
    tolerance = TOLERANCE[tensors[0].dtype]
    for name, ours, theirs in zip(NAMES, results("triton", tensors), results("reference", tensors), strict=True):
        error = (ours - theirs).abs().max() / theirs.abs().max()
        assert error < tolerance, f"{name}: {error:.1e}"


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels launched."""
    names: list[str] = []
    launch: Callable[..., None] = scan_triton._launch

    def record(kernel, *args, **kwargs):
        names.append(kernel.__name__)
        launch(kernel, *args, **kwargs)

    monkeypatch.setattr(scan_triton, "_launch", record)
    return names


def test_triton_can_run():
    assert scan_triton.why_not() == ""


@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex64])
@pytest.mark.parametrize("order", [1, 13, 70])
@pytest.mark.parametrize("length", [1, 2, 63])
@pytest.mark.parametrize("batch", [1, 3])
def test_triton_scan_is_the_specification(batch, length, order, dtype):
    assert_is_the_specification(random_scan(batch=batch, length=length, order=order, dtype=dtype))


@pytest.mark.parametrize("length", [4, 17, 64])
def test_scan_in_chunks_of_chunks_is_the_specification(length, monkeypatch, launches):
    monkeypatch.setattr(scan_triton, "_STEPS", 4)
    assert_is_the_specification(random_scan(batch=2, length=length, order=3))
    deep = {4: 0, 17: 1, 64: 2}[length]  # levels of chunks below the whole
    assert launches == ["_ends"] * deep + ["_states"] * (deep + 1) + ["_ends"] * deep + ["_states"] * deep + [
        "_adjoint"
    ]


def test_time_is_not_cut_where_there_are_programs_enough(monkeypatch, launches):
    monkeypatch.setattr(scan_triton, "_PROGRAMS", 2)
    assert_is_the_specification(random_scan(batch=2, length=63, order=3))
    assert launches == ["_states", "_adjoint"]


def test_gradients_are_those_of_finite_differences():
    tensors = tuple(t.requires_grad_() for t in random_scan(batch=2, length=3, order=2))
    assert torch.autograd.gradcheck(lambda *args: scan(*args, backend="triton"), tensors)


def test_two_runs_give_the_same_bits():
    tensors = random_scan(batch=3, length=63, order=13, dtype=torch.complex64)
    for once, again in zip(results("triton", tensors), results("triton", tensors), strict=True):
        assert torch.equal(once, again)
