"""Linear attention with a gate a key channel: every version is the loop that specifies it."""

from __future__ import annotations

import pytest
import torch
from matrix_states import SHAPES, random_matrix_recurrence
from recurrences import assert_close_results, results_and_gradients
from torch import Tensor

from gramian.errors import ConfigError, ShapeError
from gramian.kernels import GATED_ATTENTION_BACKENDS, gated_attention, ssd

FAST = GATED_ATTENTION_BACKENDS[:-1]


def run(tensors: tuple[Tensor, ...], backend: str, chunk: int | None = None) -> tuple[Tensor, ...]:
    y, final = gated_attention(*tensors, chunk=chunk, final_state=True, backend=backend)
    assert final is not None
    return y, final


def test_the_loop_is_the_recurrence() -> None:
    v, log_gate, k, q, state = random_matrix_recurrence((2, 2, 3, 4, 1, 5), gated=True)
    y, _ = gated_attention(v, log_gate, k, q, state, backend="reference")
    for head in range(3):
        S = state[:, head]
        for t in range(2):
            S = S @ torch.diag_embed(log_gate[:, t, head].exp()) + v[:, t, head, :, None] * k[:, t, head, None]
            torch.testing.assert_close(y[:, t, head], (S @ q[:, t, head, :, None])[..., 0])


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_loop_over_time(shape: tuple[int, ...], backend: str) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        tensors = random_matrix_recurrence(shape, gated=True, dtype=dtype)
        slow = results_and_gradients(lambda t: run(t, "reference"), tensors)
        for chunk in (None, 1, 5, 16, 40):
            fast = results_and_gradients(lambda t, T=chunk: run(t, backend, T), tensors)
            assert_close_results(fast, slow, tolerance, f"{backend}, chunks of {chunk}")


@pytest.mark.parametrize("backend", ["auto", *GATED_ATTENTION_BACKENDS])
def test_equal_gates_are_the_decay_of_ssd(backend: str) -> None:
    x, log_decay, B, C, state = random_matrix_recurrence((2, 40, 4, 6, 4, 5))
    gates = log_decay[..., None].expand(-1, -1, -1, 5)
    torch.testing.assert_close(run((x, gates, B, C, state), backend), ssd(x, log_decay, B, C, state, final_state=True))


@pytest.mark.parametrize("backend", GATED_ATTENTION_BACKENDS)
def test_gradients_are_the_derivatives_of_the_values(backend: str) -> None:
    leaves = tuple(t.requires_grad_() for t in random_matrix_recurrence((1, 5, 2, 2, 2, 3), gated=True))
    assert torch.autograd.gradcheck(lambda *t: gated_attention(*t, chunk=2, final_state=True, backend=backend), leaves)
    assert torch.autograd.gradcheck(lambda *t: gated_attention(*t, chunk=2, backend=backend)[0], leaves)


@pytest.mark.parametrize("backend", GATED_ATTENTION_BACKENDS)
def test_pieces_are_the_whole(backend: str) -> None:
    *whole, state = random_matrix_recurrence((2, 50, 3, 6, 3, 5), gated=True)
    y, final = run((*whole, state), backend)
    parts = []
    for a, b in ((0, 1), (1, 30), (30, 30), (30, 50)):
        part, state = run((*(t[:, a:b] for t in whole), state), backend)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), y)
    torch.testing.assert_close(state, final)


@pytest.mark.parametrize("backend", FAST)
def test_strong_gates_overflow_nowhere(backend: str) -> None:
    v, log_gate, k, q, state = random_matrix_recurrence((1, 70, 2, 4, 2, 5), gated=True, dtype=torch.float32)
    tensors = (v, log_gate * 1e4, k, q, state)
    results = results_and_gradients(lambda t: run(t, backend), tensors)
    assert all(t.isfinite().all() for t in results)
    assert_close_results(results[:2], run(tensors, "reference"), 1e-5)


@pytest.mark.parametrize("backend", GATED_ATTENTION_BACKENDS)
def test_nothing_in_nothing_out(backend: str) -> None:
    for shape in ((0, 3, 2, 4, 2, 5), (2, 0, 2, 4, 2, 5), (2, 3, 2, 0, 2, 5), (2, 3, 2, 4, 2, 0)):
        tensors = random_matrix_recurrence(shape, gated=True)
        y, final = run(tensors, backend)
        assert y.shape == tensors[0].shape
        torch.testing.assert_close(final, tensors[-1] if shape[1] == 0 else torch.zeros_like(tensors[-1]))
        assert not y.any()


@pytest.mark.parametrize("backend", GATED_ATTENTION_BACKENDS)
def test_no_state_is_a_zero_state_and_strides_do_not_matter(backend: str) -> None:
    v, log_gate, k, q, state = random_matrix_recurrence((2, 9, 4, 3, 2, 5), gated=True)
    expected = gated_attention(v, log_gate, k, q, torch.zeros_like(state), backend=backend)[0]
    strided = (t.transpose(0, 3).contiguous().transpose(0, 3) for t in (v, log_gate, k, q))
    y, final = gated_attention(*strided, backend=backend)
    torch.testing.assert_close(y, expected)
    assert final is None


@pytest.mark.parametrize("backend", FAST)
def test_two_runs_are_bit_equal_whatever_the_threads(backend: str) -> None:
    tensors = random_matrix_recurrence((2, 70, 3, 16, 3, 16), gated=True, dtype=torch.float32)
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(results_and_gradients(lambda t: run(t, backend), tensors))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_the_operator_passes_the_checks_of_torch() -> None:
    tensors = tuple(t.requires_grad_() for t in random_matrix_recurrence((2, 5, 2, 3, 2, 4), gated=True))
    torch.library.opcheck(torch.ops.gramian.gated_attention.default, (*tensors, 3))


@pytest.mark.parametrize("backend", FAST)
def test_it_is_the_same_in_one_graph(backend: str) -> None:
    torch.compiler.reset()
    tensors = random_matrix_recurrence((2, 20, 2, 3, 2, 4), gated=True)
    compiled = torch.compile(lambda t: run(t, backend, 8), backend="aot_eager", fullgraph=True)
    assert_close_results(
        results_and_gradients(compiled, tensors),
        results_and_gradients(lambda t: run(t, backend, 8), tensors),
        1e-12,
    )


def test_what_does_not_fit_is_refused() -> None:
    v, log_gate, k, q, state = random_matrix_recurrence((2, 3, 4, 5, 4, 6), gated=True)
    with pytest.raises(ShapeError, match=r"log_gate and k \(batch, L, heads, N\)"):
        gated_attention(v, log_gate[..., 0], k, q)
    with pytest.raises(ShapeError, match=r"\(batch, heads, P, N\) = \(2, 4, 5, 6\)"):
        gated_attention(v, log_gate, k, q, state.mT)
    with pytest.raises(ConfigError, match="computes on the CPU"):
        gated_attention(*(t.to("meta") for t in (v, log_gate, k, q)), backend="numba")
    with pytest.raises(ConfigError, match="Did you mean 'torch'"):
        gated_attention(v, log_gate, k, q, backend="torhc")
