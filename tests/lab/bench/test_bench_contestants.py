"""Contestants compute what they are said to compute."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest
import torch

from gramian.lab.bench import jax_peers, ours, peers
from gramian.lab.bench.memory import peak_bytes
from gramian.lab.bench.settings import MAIN, CannotRun, Settings, Shape
from gramian.lab.bench.step_tables import multiply_adds
from gramian.lab.bench.timing import ready

SHAPE = Shape(3, 37, 4, 6)


def test_torchs_associative_scan_is_our_scan_with_its_gradients() -> None:
    x, poles, g = ours.scan_data(SHAPE)
    torch.testing.assert_close(peers.torch_scan(x, poles, None)(), ours.raw_scan(x, poles, None)())
    theirs: Any = peers.torch_scan(x, poles, g)()
    mine: Any = ours.raw_scan(x, poles, g)()
    torch.testing.assert_close(theirs[1], mine[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(theirs[0], mine[1], rtol=1e-4, atol=1e-3)


def test_lru_around_torchs_associative_scan_has_our_gradients() -> None:
    theirs: Any = peers.torch_lru(ours.new_layer(SHAPE), *ours.layer_data(SHAPE))()
    mine: Any = ours.layer(SHAPE)()
    for a, b in zip(theirs, mine, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_mambapy_scans_as_many_bytes() -> None:
    pytest.importorskip("mambapy", reason="mambapy is not installed: pip install 'gramian[bench]'")
    x = ours.scan_data(SHAPE)[0]
    states: Any = peers.mambapy_scan(x, backward=False)()
    assert states.numel() * states.element_size() == x.numel() * x.element_size()
    gradients: Any = peers.mambapy_scan(x, backward=True)()
    assert all(bool(g.isfinite().all()) for g in gradients)


@pytest.mark.parametrize("package", ["jax", "mambapy"])
def test_peer_that_is_not_installed_says_how_it_would_be(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    monkeypatch.setattr(jax_peers, "find_spec", lambda name: None)
    builds = {
        "jax": lambda: jax_peers.step(SHAPE),
        "mambapy": lambda: peers.mambapy_scan(ours.scan_data(SHAPE)[0], backward=False),
    }
    assert ready({package: builds[package]}) == (
        {},
        {package: f"{package} is not installed: pip install 'gramian[bench]'"},
    )


def test_failing_peer_has_a_reason_that_names_it() -> None:
    def fails() -> None:
        raise NotImplementedError("not on this device\nand more")

    with pytest.raises(CannotRun, match=r"^rival: NotImplementedError: not on this device$"):
        peers.guarded(fails, "rival")()


def test_models_and_data_are_the_same_every_time_and_leave_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    first, second = ours.model(SHAPE), ours.model(SHAPE)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(ours.batch(SHAPE)[0], ours.batch(SHAPE)[0])
    assert torch.equal(before, torch.get_rng_state())


def test_multiply_adds_are_those_of_the_plain_form() -> None:
    tokens, H, N = 8 * 1024, 512, 384
    wide = Shape(8, 1024, H, N, blocks=2)
    b_and_c = 2 * N * H + 2 * N * H  # complex N times real H, and the real part of the way back
    assert multiply_adds(wide) == 3 * 2 * tokens * (b_and_c + H * 2 * H)


def test_small_settings_make_every_shape_tiny_and_keep_the_cut_visible() -> None:
    small = Settings(small=True)
    assert small.fit(MAIN) == Shape(3, 40, 4, 12)
    assert small.fit(Shape(50, 784, 8, 25)).states < small.fit(MAIN).states
    assert Settings().fit(MAIN) == MAIN


def test_peak_memory_is_that_of_the_fresh_process_and_not_of_this_one() -> None:
    ballast = torch.ones(400_000_000 // 4)  # ru_maxrss of the child would count it
    ballast += 1
    found = peak_bytes("step", SHAPE, calls=1)
    assert 0 < found["libraries"] <= found["peak"]
    assert found["peak"] - found["libraries"] < 50e6
    assert float(ballast[-1]) == 2


def test_freed_memory_is_kept_once_the_allocator_is_told_so() -> None:
    code = """
import resource, sys
from gramian.allocator import keep_freed_memory
if not keep_freed_memory():
    sys.exit("not glibc")
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(40_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), faults())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0 and "not glibc" in done.stderr:
        pytest.skip("another allocator than glibc's")
    first, second = map(int, done.stdout.split())
    assert second < first / 10


def test_process_that_fails_is_a_reason() -> None:
    with pytest.raises(CannotRun, match="process of its own"):
        peak_bytes("step", Shape(0, 0, 0, 0), calls=1)


def test_stepping_goes_on_from_its_own_state() -> None:
    call = ours.stepping(SHAPE)
    stepper = inspect.getclosurevars(call).nonlocals["stepper"]
    call()
    first = stepper.state.clone()
    call()
    assert not torch.equal(stepper.state, first)
