"""What the first call of a process costs: imports, compiled code from the cache, and that code compiled anew."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from gramian.lab.bench.report import Result, Section
from gramian.lab.bench.settings import CannotRun, Settings
from gramian.lab.bench.timing import Spread

__all__ = ["first_call_table"]

_BATCH, _LENGTH, _CHANNELS, _STATES = 8, 256, 64, 16
_MOST = 3.0  # seconds

_MAKERS: Mapping[str, str] = {
    "LRU": "gramian.LRU({0}, {1})",
    "Mamba": "gramian.Mamba({0}, {1})",
    "Mamba2": "gramian.Mamba2({0}, {1}, head_dim=16)",
    "LinearAttention": "gramian.LinearAttention({0}, {1}, n_heads=4)",
}
_PROGRAM = """
import json, time
start = time.perf_counter()
import torch
torch_there = time.perf_counter()
import gramian
layer = {maker}
gramian_there = time.perf_counter()
torch.set_num_threads(2)
x = torch.randn({batch}, {length}, {channels})
seconds = []
for _ in range(2):
    before = time.perf_counter()
    layer(x).square().sum().backward()
    seconds.append(time.perf_counter() - before)
print(json.dumps([torch_there - start, gramian_there - torch_there, *seconds]))
"""


def first_call_table(settings: Settings) -> Result:
    """Seconds of imports and of the first forward and backward pass, of processes that are started anew."""
    rows, data = list[tuple[str, ...]](), dict[str, Any]()
    for name, maker in list(_MAKERS.items())[: 1 if settings.small else None]:
        program = _PROGRAM.format(
            maker=maker.format(_CHANNELS, _STATES), batch=_BATCH, length=_LENGTH, channels=_CHANNELS
        )
        try:
            with tempfile.TemporaryDirectory() as nothing:
                compiled = _seconds(program, {"NUMBA_CACHE_DIR": nothing})
            _seconds(program)  # whatever was not cached yet
            samples = [_seconds(program) for _ in range(settings.rounds)]
        except CannotRun as reason:
            rows.append((name, f"not run: {reason}", *("",) * 6))
            continue
        data[name] = {"nothing cached": compiled, "cached": samples}
        torch, ours, first, second = (str(Spread.of(column)) for column in zip(*samples, strict=True))
        both = Spread.of(sample[1] + sample[2] for sample in samples)
        met = "yes" if both.median <= _MOST else "no"
        rows.append((name, torch, ours, first, second, str(both), met, f"{compiled[2]:.1f}"))
    parts = ("import torch", "import gramian", "first call", "second call", "import gramian and first call")
    columns = ("layer", *(f"{part}, s" for part in parts), f"at most {_MOST:g} s", "first call, nothing cached, s")
    note = (
        f"A process of its own for every round: batch {_BATCH}, L {_LENGTH}, {_CHANNELS} channels, {_STATES} states, "
        "forward and backward. Compiled code is in the cache beside the source, as after any earlier use; the last "
        "column is the first call of a process, once, for which it is compiled."
    )
    return Result([Section("", columns, rows)], (note,), data, dtype="float32")


def _seconds(program: str, variables: Mapping[str, str] | None = None) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ | (variables or {})
    )
    if done.returncode != 0:
        raise CannotRun((done.stderr.strip().splitlines() or ["no message"])[-1])
    found: list[float] = json.loads(done.stdout)
    return found
