"""Measure every version of the recurrence over a grid of shapes and write ``choice.json``.

    python -m gramian.kernels.measure_choice [PATH]

Each shape is timed on all versions in turns, forward and backward pass with all gradients in float32, one warm-up and
then the median of three; a version that needs more than six times as long as the best is not repeated. About ten
minutes on two cores.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gramian.kernels.choice import TABLE, stateless
from gramian.kernels.dispatch import diagonal_ssm

__all__ = ["measure", "recurrence"]

_GRID = {"batch": (1, 8, 50), "length": (64, 784, 4096), "channels": (2, 8, 32, 128, 512), "order": (8, 32, 128, 512)}
_VERSIONS = ("numba", "fft", "products", "chunked")
_LARGEST = 2**27  # numbers in the inputs, states or impulse response of a shape that is measured
_REPEATS = 3
_HOPELESS = 6.0


def recurrence(batch: int, length: int, channels: int, order: int) -> tuple[Tensor, ...]:
    """Random ``u, decay, angle, B, C, D`` that want gradients."""
    g = torch.Generator().manual_seed(0)
    u, D = torch.randn(batch, length, channels, generator=g), torch.randn(channels, generator=g)
    decay = 10 ** (2 * torch.rand(order, generator=g) - 3)
    angle = 6 * torch.rand(order, generator=g)
    B = torch.randn(order, channels, dtype=torch.complex64, generator=g) / channels**0.5
    C = torch.randn(channels, order, dtype=torch.complex64, generator=g) / order**0.5
    return tuple(t.requires_grad_() for t in (u, decay, angle, B, C, D))


def measure(batch: int, length: int, channels: int, order: int) -> dict[str, float]:
    """Seconds of forward and backward pass by version; versions whose arrays would be huge are left out."""
    tensors = recurrence(batch, length, channels, order)
    weight = torch.randn(batch, length, channels, generator=torch.Generator().manual_seed(1))

    def run(version: str) -> Callable[[], Any]:
        options = {"backend": version, "final_state": not stateless(version)}
        return lambda: torch.autograd.grad(diagonal_ssm(*tensors, **options)[0], tensors, weight)  # type: ignore[arg-type]

    fits = {
        "numba": True,
        "fft": 32 * length * channels**2 <= _LARGEST,
        "products": batch * length * order * 2 <= _LARGEST,
        "chunked": batch * length * max(order // 8, channels) <= _LARGEST,
    }
    calls = {version: run(version) for version in _VERSIONS if fits[version]}
    for call in calls.values():  # compiles, and warms up
        _seconds(call)
    samples = {version: [_seconds(call)] for version, call in calls.items()}
    best = min(min(s) for s in samples.values())
    for _ in range(_REPEATS - 1):
        for version, call in calls.items():
            if samples[version][0] < _HOPELESS * best:
                samples[version].append(_seconds(call))
    return {version: statistics.median(s) for version, s in samples.items()}


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(path: Path) -> None:
    """Measure the whole grid."""
    rows = []
    for shape in product(*_GRID.values()):
        batch, length, channels, order = shape
        if batch * length * channels > _LARGEST // 16 or batch * length * order * channels > 2**34:
            continue
        rows.append({**dict(zip(_GRID, shape, strict=True)), "seconds": measure(*shape)})
        sys.stdout.write(f"{json.dumps(rows[-1])}\n")
        sys.stdout.flush()
    facts = {
        "command": "python -m gramian.kernels.measure_choice",
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dtype": "float32",
    }
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    path.write_text(f'{{"facts": {json.dumps(facts)},\n "rows": [\n  {lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TABLE)
