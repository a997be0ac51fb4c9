"""Peak memory of one contestant in a process of its own: ``python -m gramian.lab.bench.memory NAME SHAPE CALLS``."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gramian.lab.bench import mamba_contestants, ours
from gramian.lab.bench.resident import peak_resident, seconds_of
from gramian.lab.bench.settings import CannotRun, Shape, threads
from gramian.lab.bench.timing import Call

__all__ = ["JAX", "MEASURED", "peak_bytes"]

_CALLS = 3

TINY = Shape(2, 4, 2, 2)
"""Whose memory is that of the libraries, with what they load when they are first used."""

MEASURED: Mapping[str, Callable[[Shape], Call]] = {
    "step": ours.step,
    "cut": ours.cut,
    "mamba": mamba_contestants.model,
    "mambapy": mamba_contestants.mambapy_model,
}

JAX: Mapping[str, float] = {"jax step": 0.1, "jax step, no dropout": 0.0}
"""Names and dropout; run without torch in the process."""


def peak_bytes(name: str, shape: Shape, calls: int = _CALLS) -> dict[str, Any]:
    """Peak resident memory of a fresh process that builds a contestant and calls it a few times.

    Returns
    -------
    dict
        ``peak`` and ``libraries``, the peak after the same with a tiny model, in bytes; ``seconds`` of every call, with
        the allocator as it is.

    Raises
    ------
    CannotRun
        If the process failed.
    """
    facts = dataclasses.asdict(shape) | {"classes": ours.CLASSES}
    if name in JAX:
        if find_spec("jax") is None:
            raise CannotRun("jax is not installed: pip install 'gramian[bench]'")
        command = [str(Path(__file__).with_name("jax_alone.py")), json.dumps(facts), str(JAX[name]), str(calls)]
    else:
        command = ["-m", "gramian.lab.bench.memory", name, json.dumps(dataclasses.asdict(shape)), str(calls)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CannotRun(f"'{name}' ended with {done.returncode} in a process of its own: {last}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(arguments: list[str]) -> dict[str, Any]:
    """What the process measures."""
    name, shape, calls = arguments
    with threads():
        _call(name, TINY, int(calls))
        libraries = peak_resident()
        seconds = _call(name, Shape(**json.loads(shape)), int(calls))
    return {"peak": peak_resident(), "libraries": libraries, "seconds": seconds}


def _call(name: str, shape: Shape, calls: int) -> list[float]:
    return seconds_of(MEASURED[name](shape), calls)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1:])) + "\n")
