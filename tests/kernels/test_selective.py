"""Mamba's selective scan: every version is the loop that specifies it, and the operator fits into torch."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from recurrences import assert_close_results, results_and_gradients
from selective_sequences import OPTIONAL, SHAPES, Tensors, random_sequences, run
from torch import Tensor
from torch.nn import functional as F

from gramian.errors import ConfigError, ShapeError
from gramian.kernels import SELECTIVE_BACKENDS, selective_scan
from gramian.kernels.selective_chunked import states_by_doubling, states_by_steps

HERE = tuple(name for name in SELECTIVE_BACKENDS if name != "mamba_ssm")
FAST = tuple(name for name in HERE if name != "reference")


def with_gradients(tensors: dict[str, Tensor], backend: str, softplus: bool = True) -> Tensors:
    names = tuple(tensors)
    return results_and_gradients(
        lambda leaves: run(dict(zip(names, leaves, strict=True)), backend, softplus), tuple(tensors.values())
    )


def test_the_loop_is_the_recurrence() -> None:
    t = random_sequences((1, 3, 4, 2, 2))
    y, final = run(t, "reference")
    for c in range(4):
        for n in range(2):
            h = t["state"][0, c, n]
            for k in range(3):
                delta = F.softplus(t["dt"][0, k, c] + t["dt_bias"][c])
                h = torch.exp(delta * t["A"][c, n]) * h + delta * t["B"][0, k, c // 2, n] * t["u"][0, k, c]
            torch.testing.assert_close(final[0, c, n], h)
    read = sum(t["C"][0, 2, 0, n] * final[0, 1, n] for n in range(2)) + t["D"][1] * t["u"][0, 2, 1]
    torch.testing.assert_close(y[0, 2, 1], read * F.silu(t["z"][0, 2, 1]))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_the_loop_over_time(shape: tuple[int, int, int, int, int], backend: str) -> None:
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        tensors = random_sequences(shape, dtype)
        slow, fast = with_gradients(tensors, "reference"), with_gradients(tensors, backend)
        assert_close_results(fast, slow, tolerance, backend)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("softplus", [True, False])
def test_what_may_be_left_out_may_be(softplus: bool, backend: str) -> None:
    for count in range(len(OPTIONAL) + 1):
        for left_out in combinations(OPTIONAL, count):
            tensors = random_sequences((2, 18, 5, 3, 1))
            tensors = {name: t for name, t in tensors.items() if name not in left_out}
            if not softplus:
                tensors["dt"] = tensors["dt"].abs() / 5
            slow, fast = with_gradients(tensors, "reference", softplus), with_gradients(tensors, backend, softplus)
            assert_close_results(fast, slow, 1e-12, f"{backend} without {left_out}")


@pytest.mark.parametrize("backend", HERE)
def test_gradients_are_the_derivatives_of_the_values(backend: str) -> None:
    tensors = random_sequences((1, 3, 2, 2, 2))
    leaves = tuple(t.requires_grad_() for t in tensors.values())
    assert torch.autograd.gradcheck(lambda *t: run(dict(zip(tensors, t, strict=True)), backend), leaves)


@pytest.mark.parametrize("backend", HERE)
def test_pieces_are_the_whole(backend: str) -> None:
    tensors = random_sequences((2, 50, 5, 6, 1))
    y, final = run(tensors, backend)
    parts, state = [], tensors["state"]
    for a, b in ((0, 1), (1, 33), (33, 33), (33, 50)):
        piece = {name: t[:, a:b] if name in ("u", "dt", "B", "C", "z") else t for name, t in tensors.items()}
        part, state = run({**piece, "state": state}, backend)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), y)
    torch.testing.assert_close(state, final)


@pytest.mark.parametrize("backend", ["auto", *HERE])
def test_nothing_in_nothing_out(backend: str) -> None:
    for shape in ((0, 3, 2, 4, 1), (2, 0, 2, 4, 1), (2, 3, 0, 4, 1), (2, 3, 2, 0, 1)):
        tensors = {name: t.requires_grad_() for name, t in random_sequences(shape).items()}
        y, final = run(tensors, backend)
        assert y.shape == shape[:3]
        assert final.shape == (shape[0], *shape[2:4])
        (y.sum() + final.sum()).backward()
        if shape[1] == 0:
            assert torch.equal(final, tensors["state"])


@pytest.mark.parametrize("backend", FAST)
def test_columns_of_a_larger_matrix_are_read_where_they_lie(backend: str) -> None:
    tensors = random_sequences((2, 37, 40, 5, 2), torch.float32)
    strided = dict(tensors)
    for name in ("u", "dt", "z"):
        strided[name] = F.pad(tensors[name], (3, 4), value=torch.nan)[..., 3:-4]
    both = torch.cat([tensors["B"].flatten(2), tensors["C"].flatten(2)], -1)
    strided["B"], strided["C"] = (m.unflatten(-1, (2, 5)) for m in both.chunk(2, -1))
    strided["u"] = strided["u"].transpose(0, 1).contiguous().transpose(0, 1)
    strided["A"] = tensors["A"].mT.contiguous().mT
    for one, two in zip(with_gradients(tensors, backend), with_gradients(strided, backend), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_columns_that_lie_apart_are_copied_first() -> None:
    tensors = random_sequences((2, 9, 6, 4, 1))
    apart = {name: torch.stack([t, t], -1)[..., 0] for name, t in tensors.items()}
    assert_close_results(with_gradients(apart, "numba"), with_gradients(tensors, "numba"), 0.0)


def test_two_runs_are_bit_equal_whatever_the_threads() -> None:
    before = torch.get_num_threads()
    for shape in ((5, 63, 300, 6, 1), (1, 40, 300, 17, 1)):
        tensors, results = random_sequences(shape, torch.float32), []
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            results.append(with_gradients(tensors, "numba"))
        torch.set_num_threads(before)
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", FAST)
def test_the_states_of_all_steps_are_never_kept(backend: str) -> None:
    batch, length, channels, order = shape = (2, 256, 32, 64)
    tensors = {name: t.requires_grad_() for name, t in random_sequences((*shape, 1), torch.float32).items()}
    kept: dict[int, int] = {}

    def count(t: Tensor) -> Tensor:
        kept[t.data_ptr()] = t.numel()
        return t

    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        run(tensors, backend)
    assert sum(kept.values()) < batch * length * channels * order / 4


@pytest.mark.parametrize("backend", FAST)
def test_what_is_forgotten_at_once_leaves_nothing(backend: str) -> None:
    """Decays far below the smallest number are zero, or as good as."""
    tensors = random_sequences((1, 20, 3, 4, 1), torch.float32)
    tensors["A"] = torch.full_like(tensors["A"], -1e6)
    results = with_gradients(tensors, backend)
    assert all(t.isfinite().all() for t in results)
    alone = {**tensors, "state": torch.zeros_like(tensors["state"])}
    torch.testing.assert_close(results[0], run(alone, backend)[0])


@pytest.mark.parametrize("backend", FAST)
def test_a_number_that_is_none_is_passed_on(backend: str) -> None:
    tensors = random_sequences((1, 20, 40, 4, 1), torch.float32)
    tensors["u"][0, 5, 7] = torch.nan
    y, final = run(tensors, backend)
    assert y[0, 5:, 7].isnan().all()
    assert final[0, 7].isnan().all()
    y[0, 5:, 7] = 0
    assert y.isfinite().all()


@pytest.mark.parametrize("backend", FAST)
def test_half_precision_is_computed_in_single(backend: str) -> None:
    tensors = random_sequences((2, 18, 5, 3, 1), torch.bfloat16)
    y, final = run(tensors, backend)
    wide = run({name: t.float() for name, t in tensors.items()}, backend)
    assert torch.equal(y, wide[0].bfloat16())
    assert torch.equal(final, wide[1])
    mixed = {**tensors, "A": tensors["A"].float(), "D": tensors["D"].float()}
    assert torch.equal(run(mixed, backend)[0], y)


def test_what_does_not_fit_is_refused() -> None:
    t = random_sequences((2, 3, 4, 5, 2))
    call = selective_scan
    with pytest.raises(ShapeError, match=r"Needed: u \(batch, L, channels\), A \(channels, N\)"):
        call(**{**t, "A": t["A"][:3]})
    with pytest.raises(ShapeError, match=r"Needed: both \(2, 3, 5\), or with groups \(2, 3, groups, 5\)"):
        call(**{**t, "B": t["B"][:, :, :, :4]})
    with pytest.raises(ShapeError, match="Needed: both"):
        call(**{**t, "C": t["C"][:, :, 0]})
    with pytest.raises(ShapeError, match="4 channels and 3 groups were given"):
        call(**{**t, "B": t["B"][:, :, [0, 1, 1]], "C": t["C"][:, :, [0, 1, 1]]})
    for name in ("dt", *OPTIONAL):
        with pytest.raises(ShapeError, match=rf"Needed: {name} \("):
            call(**{**t, name: t[name][:1]})
    with pytest.raises(ConfigError, match=r"numbaa.*Did you mean 'numba'"):
        call(**t, backend="numbaa")
    with pytest.raises(ConfigError, match="computes on the CPU"):
        call(**{name: tensor.to("meta") for name, tensor in t.items()}, backend="numba")


def test_passes_of_doubling_windows_are_the_steps() -> None:
    g = torch.Generator().manual_seed(0)
    for length in (1, 2, 5, 16, 33):
        decay = torch.rand(2, length, 3, 4, generator=g, dtype=torch.float64)
        x, state = torch.randn(2, length, 3, 4, generator=g).double(), torch.randn(2, 3, 4, generator=g).double()
        states = states_by_steps(decay, x, state)
        torch.testing.assert_close(states_by_doubling(decay, x, state), states)
        torch.testing.assert_close(states[:, -1], decay[:, -1] * (states[:, -2] if length > 1 else state) + x[:, -1])
