"""State space duality: every version is the loop that specifies it, and the operator fits into torch."""

from __future__ import annotations

import pytest
import torch
from matrix_states import SHAPES, random_matrix_recurrence
from recurrences import assert_close_results, results_and_gradients
from torch import Tensor

from gramian.errors import ConfigError, ShapeError
from gramian.kernels import SSD_BACKENDS, ssd

FAST = SSD_BACKENDS[:-1]


def run(tensors: tuple[Tensor, ...], backend: str, chunk: int | None = None) -> tuple[Tensor, ...]:
    y, final = ssd(*tensors, chunk=chunk, final_state=True, backend=backend)
    assert final is not None
    return y, final


def test_the_loop_is_the_recurrence() -> None:
    x, log_decay, B, C, state = random_matrix_recurrence((2, 2, 3, 4, 1, 5))
    for head in range(3):
        S = state[:, head]
        for t in range(2):
            S = log_decay[:, t, head].exp()[:, None, None] * S + x[:, t, head, :, None] * B[:, t, 0, None]
            y = ssd(x, log_decay, B, C, state, backend="reference")[0][:, t, head]
            torch.testing.assert_close(y, (S @ C[:, t, 0, :, None])[..., 0])


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_loop_over_time(shape: tuple[int, ...], backend: str) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        tensors = random_matrix_recurrence(shape, dtype=dtype)
        slow = results_and_gradients(lambda t: run(t, "reference"), tensors)
        for chunk in (None, 1, 5, 16, 40):
            fast = results_and_gradients(lambda t, T=chunk: run(t, backend, T), tensors)
            assert_close_results(fast, slow, tolerance, f"{backend}, chunks of {chunk}")


@pytest.mark.parametrize("backend", SSD_BACKENDS)
def test_gradients_are_the_derivatives_of_the_values(backend: str) -> None:
    leaves = tuple(t.requires_grad_() for t in random_matrix_recurrence((1, 5, 4, 2, 2, 3)))
    assert torch.autograd.gradcheck(lambda *t: ssd(*t, chunk=2, final_state=True, backend=backend), leaves)
    assert torch.autograd.gradcheck(lambda *t: ssd(*t, chunk=2, backend=backend)[0], leaves)


@pytest.mark.parametrize("backend", SSD_BACKENDS)
@pytest.mark.parametrize("given", ["dt", "D", "dt D"])
def test_step_sizes_scale_values_and_D_feeds_them_through(given: str, backend: str) -> None:
    tensors = random_matrix_recurrence((2, 33, 4, 17, 2, 5))
    g = torch.Generator().manual_seed(1)
    like = {"generator": g, "dtype": torch.float64}
    extra = {"dt": torch.rand(2, 33, 4, **like), "D": torch.randn(4, **like)}
    names = given.split()

    def whole(t: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        y, final = ssd(*t[:5], **dict(zip(names, t[5:], strict=True)), chunk=16, final_state=True, backend=backend)
        assert final is not None
        return y, final

    def by_hand(t: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x, more = t[0], dict(zip(names, t[5:], strict=True))
        y, final = run((x * more["dt"][..., None] if "dt" in more else x, *t[1:5]), "reference")
        return y + more["D"][:, None] * x if "D" in more else y, final

    leaves = (*tensors, *(extra[name] for name in names))
    assert_close_results(results_and_gradients(whole, leaves), results_and_gradients(by_hand, leaves), 1e-12)


@pytest.mark.parametrize("backend", SSD_BACKENDS)
def test_pieces_are_the_whole(backend: str) -> None:
    *whole, state = random_matrix_recurrence((2, 50, 4, 6, 2, 5))
    y, final = run((*whole, state), backend)
    parts = []
    for a, b in ((0, 1), (1, 30), (30, 30), (30, 50)):
        part, state = run((*(t[:, a:b] for t in whole), state), backend)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), y)
    torch.testing.assert_close(state, final)


@pytest.mark.parametrize("backend", FAST)
def test_strong_decay_neither_overflows_nor_loses_its_gradient(backend: str) -> None:
    """One step forgets nearly all: by ``exp(-20)``, which its gradient must show in float32."""
    tensors = [t.double() for t in random_matrix_recurrence((1, 32, 2, 8, 1, 8), dtype=torch.float32)]
    tensors[1] = torch.full_like(tensors[1], -1e-3)
    tensors[1][:, 16] = -20.0
    exact = results_and_gradients(lambda t: run(t, "reference"), tuple(tensors))
    found = results_and_gradients(lambda t: run(t, backend, 32), tuple(t.float() for t in tensors))
    assert_close_results(found, exact, 1e-5, backend)
    error = found[3][:, 16] - exact[3][:, 16]
    assert float(error.abs().max()) < 1e-5
    huge = tensors[1] * 1e4
    assert all(t.isfinite().all() for t in run((tensors[0], huge, *tensors[2:]), backend))


@pytest.mark.parametrize("backend", SSD_BACKENDS)
def test_nothing_in_nothing_out(backend: str) -> None:
    for shape in ((0, 3, 2, 4, 1, 5), (2, 0, 2, 4, 1, 5), (2, 3, 2, 0, 1, 5), (2, 3, 2, 4, 1, 0)):
        tensors = random_matrix_recurrence(shape)
        for leaf in tensors:
            leaf.requires_grad_()
        y, final = run(tensors, backend)
        assert y.shape == tensors[0].shape
        torch.testing.assert_close(final, tensors[-1] if shape[1] == 0 else torch.zeros_like(tensors[-1]))
        assert not y.any()
        (y.sum() + final.sum()).backward()


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("stateful", [True, False])
def test_states_that_are_not_given_or_not_wanted_count_as_zero(stateful: bool, final: bool, backend: str) -> None:
    """Products with them may be left out, at the first and at the last chunk, which may be one and the same."""
    *tensors, state = random_matrix_recurrence((2, 33, 4, 5, 2, 7))
    leaves = (*tensors, state) if stateful else tuple(tensors)

    def outputs(t: tuple[Tensor, ...], chunk: int | None = None, *, slow: bool = False) -> tuple[Tensor, ...]:
        first = t[4] if stateful else (torch.zeros_like(state) if slow else None)
        how = "reference" if slow else backend
        y, last = ssd(*t[:4], first, chunk=chunk, final_state=final, backend=how)
        return (y,) if last is None else (y, last)

    expected = results_and_gradients(lambda t: outputs(t, slow=True), leaves)
    for chunk in (None, 5, 11, 17, 40):
        found = results_and_gradients(lambda t, T=chunk: outputs(t, T), leaves)
        assert_close_results(found, expected, 1e-12, f"chunks of {chunk}")


@pytest.mark.parametrize("backend", SSD_BACKENDS)
def test_no_state_is_a_zero_state_and_strides_do_not_matter(backend: str) -> None:
    x, log_decay, B, C, state = random_matrix_recurrence((2, 9, 4, 3, 2, 5))
    expected = ssd(x, log_decay, B, C, torch.zeros_like(state), backend=backend)[0]
    both = torch.cat([B, C], -1)
    columns = both[..., :5], both[..., 5:]
    rows = torch.cat([x.flatten(2), x.flatten(2)], -1)[..., :12].unflatten(-1, (4, 3))
    for strided in (x.transpose(0, 3).contiguous().transpose(0, 3), rows):
        y, final = ssd(strided, log_decay.mT.contiguous().mT, *columns, backend=backend)
        torch.testing.assert_close(y, expected)
        assert final is None


@pytest.mark.parametrize("backend", FAST)
def test_two_runs_are_bit_equal_whatever_the_threads(backend: str) -> None:
    tensors = random_matrix_recurrence((2, 70, 6, 16, 1, 16), dtype=torch.float32)
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(results_and_gradients(lambda t: run(t, backend), tensors))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_half_precision_is_computed_in_float32() -> None:
    tensors = random_matrix_recurrence((2, 40, 2, 8, 1, 8), dtype=torch.bfloat16)
    y, final = run(tensors, "auto")
    wide, expected = run(tuple(t.float() for t in tensors), "auto")
    assert (y.dtype, final.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(final, expected)
    torch.testing.assert_close(y, wide.bfloat16())


@pytest.mark.parametrize("stateful", [True, False])
@pytest.mark.parametrize("final", [True, False])
def test_the_operators_pass_the_checks_of_torch(stateful: bool, final: bool) -> None:
    tensors = tuple(t.requires_grad_() for t in random_matrix_recurrence((2, 5, 4, 3, 2, 4)))
    torch.library.opcheck(torch.ops.gramian.ssd_chunked.default, (*tensors, 3))
    given = tensors if stateful else (*tensors[:4], None)
    dt, D = torch.rand(2, 5, 4, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    torch.library.opcheck(torch.ops.gramian.ssd.default, (*given, dt.requires_grad_(), D.requires_grad_(), 3, final))


@pytest.mark.parametrize("backend", FAST)
def test_it_is_the_same_in_one_graph(backend: str) -> None:
    torch.compiler.reset()
    tensors = random_matrix_recurrence((2, 20, 4, 3, 2, 4))
    compiled = torch.compile(lambda t: run(t, backend, 8), backend="aot_eager", fullgraph=True)
    assert_close_results(
        results_and_gradients(compiled, tensors),
        results_and_gradients(lambda t: run(t, backend, 8), tensors),
        1e-12,
    )


def test_what_does_not_fit_is_refused() -> None:
    x, log_decay, B, C, state = random_matrix_recurrence((2, 3, 4, 5, 2, 6))
    with pytest.raises(ShapeError, match=r"log_decay \(batch, L, heads\)"):
        ssd(x, log_decay[..., :3], B, C)
    with pytest.raises(ShapeError, match=r"Needed: both \(2, 3, groups, N\)"):
        ssd(x, log_decay, B, C[..., :5])
    with pytest.raises(ShapeError, match="4 heads and 3 groups"):
        ssd(x, log_decay, B[:, :, [0, 1, 1]], C[:, :, [0, 1, 1]])
    with pytest.raises(ShapeError, match=r"\(batch, heads, P, N\) = \(2, 4, 5, 6\)"):
        ssd(x, log_decay, B, C, state.mT)
    with pytest.raises(ShapeError, match=r"dt \(2, 3, 1\) was given.*needed: \(2, 3, 4\)"):
        ssd(x, log_decay, B, C, dt=log_decay[..., :1])
    with pytest.raises(ShapeError, match=r"D \(3,\) was given.*needed: \(4,\)"):
        ssd(x, log_decay, B, C, D=torch.ones(3))
    with pytest.raises(ConfigError, match="at least 1"):
        ssd(x, log_decay, B, C, chunk=0)
    with pytest.raises(ConfigError, match="computes on the CPU"):
        ssd(*(t.to("meta") for t in (x, log_decay, B, C)), backend="numba")
    with pytest.raises(ConfigError, match="Did you mean 'chunked'"):
        ssd(x, log_decay, B, C, backend="chunks")
