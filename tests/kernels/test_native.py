"""Compiled loops: threads as torch has them, vectors that do what they say, and code that is cached."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from gramian.kernels.native import array, bits, compiled, entry, launch, run
from gramian.kernels.transposition import transpose
from gramian.kernels.vector_math import erf, exp, logistic, normal_density
from gramian.kernels.vector_memory import load, store
from gramian.kernels.vectors import lanes, total


@compiled
def _record(index, args, real):
    slots = array(args[0], args[1], np.int64(0))
    slots[index] += 1
    for _ in range(20000):  # long enough for every thread to take some
        slots[index] = slots[index] * 1


@entry
def _record_entry(data):
    run(_record, data)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("tasks", [1, 2, 7, 5000])
def test_every_task_is_run_once(tasks: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    slots = torch.zeros(max(tasks, 5000), dtype=torch.int64)
    launch(_record_entry, tasks, torch.float32, slots, tasks)
    torch.set_num_threads(before)
    assert (slots[:tasks] == 1).all()
    assert not slots[tasks:].any()


def test_numbers_travel_as_their_bits() -> None:
    for number in (0.0, -1.5, math.pi, 1e-300, math.inf):
        assert np.int64(bits(number)).view(np.float64) == number


@compiled
def _apply(index, args, real):
    n = args[0]
    x, out = array(args[1], n, real), array(args[2], 5 * n, real)
    for i in range(0, n, lanes(real)):
        v = load(x, i, n)
        store(out, i, n, exp(v))
        store(out, n + i, 2 * n, erf(v))
        store(out, 2 * n + i, 3 * n, logistic(v))
        store(out, 3 * n + i, 4 * n, normal_density(v))
        out[4 * n + i // lanes(real)] = total(v)


@entry
def _apply_entry(data):
    run(_apply, data)


@pytest.mark.parametrize(("dtype", "ulp"), [(torch.float32, 1.2e-7), (torch.float64, 2.3e-16)])
def test_functions_of_vectors_are_accurate(dtype: torch.dtype, ulp: float) -> None:
    x = torch.cat([torch.linspace(-12, 12, 20011), torch.tensor([0.0, -80.0, 80.0])]).to(dtype)
    n = len(x)
    out = torch.zeros(5 * n, dtype=dtype)
    launch(_apply_entry, 1, dtype, n, x, out)
    exact, (e, f, s, d) = x.double(), out[: 4 * n].double().view(4, n)
    assert ((e / exact.exp() - 1).abs() < 4 * ulp).all()
    assert ((f - torch.erf(exact)).abs() < 5 * ulp).all()
    assert ((s - torch.sigmoid(exact)).abs() < 3 * ulp).all()
    assert ((d - (-0.5 * exact.square()).exp() / math.sqrt(2 * math.pi)).abs() < 4 * ulp).all()
    width = 64 // x.element_size()
    sums = torch.nn.functional.pad(x, (0, -n % width)).view(-1, width).double().sum(1)
    torch.testing.assert_close(out[4 * n :][: len(sums)].double(), sums, rtol=1e-5, atol=1e-4 if ulp > 1e-10 else 1e-12)


@compiled
def _transpose(index, args, real):
    rows, columns, width = args[0], args[1], args[2]
    source, target = array(args[3], rows * columns, real), array(args[4], columns * width, real)
    transpose(source, 0, columns, rows, columns, target, 0, width, width)


@entry
def _transpose_entry(data):
    run(_transpose, data)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_are_transposed_and_nothing_else_is_touched(dtype: torch.dtype) -> None:
    full = 64 // torch.empty(0, dtype=dtype).element_size()
    for rows in (1, 3, full):
        for columns in (1, 5, full):
            for width in (1, rows, full):
                source = torch.arange(1.0, rows * columns + 1, dtype=dtype).view(rows, columns)
                room = torch.full((columns * width + 40,), -7.0, dtype=dtype)
                launch(_transpose_entry, 1, dtype, rows, columns, width, source, room)
                expected = torch.zeros(columns, full, dtype=dtype)
                expected[:, :rows] = source.mT
                assert torch.equal(room[: columns * width].view(columns, width), expected[:, :width])
                assert (room[columns * width :] == -7).all()


def test_the_first_call_of_a_process_takes_its_code_from_the_cache() -> None:
    """Machine code is not compiled again: numba's compiler is never entered in a second process."""
    script = textwrap.dedent("""
        import torch
        from numba.core import compiler
        calls = []
        original = compiler.compile_extra
        def counted(*args, **kwargs):
            calls.append(1)
            return original(*args, **kwargs)
        compiler.compile_extra = counted
        from gramian.kernels import scan
        scan(torch.randn(2, 9, 5, dtype=torch.complex64), torch.rand(5) + 0j)
        print(len(calls))
    """)
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True) for _ in range(2)
    ]
    assert runs[1].stdout.strip() == "0", runs[1].stderr
