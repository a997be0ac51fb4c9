"""Peak memory of the JAX step in a process without torch: ``python jax_alone.py SHAPE DROPOUT CALLS``.

Run by its path. The package's own initialisation, which imports torch, is kept out by an empty one in its place.
"""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

TINY = {"batch": 2, "length": 4, "channels": 2, "states": 2}


def main(arguments: list[str]) -> dict[str, Any]:
    """What the process measures; its answer has the keys of `gramian.lab.bench.memory.peak_bytes`."""
    shape, dropout, calls = json.loads(arguments[0]), float(arguments[1]), int(arguments[2])
    package = types.ModuleType("gramian")
    package.__path__ = [str(Path(__file__).parents[2])]
    sys.modules["gramian"] = package
    resident = import_module("gramian.lab.bench.resident")
    os.environ.update(resident.JAX_ENVIRONMENT)
    jax_model, np = import_module("gramian.lab.bench.jax_model"), import_module("numpy")
    assert "torch" not in sys.modules
    resident.seconds_of(_step(jax_model, np, shape | TINY, dropout), calls)
    libraries = resident.peak_resident()
    seconds = resident.seconds_of(_step(jax_model, np, shape, dropout), calls)
    return {"peak": resident.peak_resident(), "libraries": libraries, "seconds": seconds}


def _step(jax_model: Any, np: Any, shape: dict[str, int], dropout: float) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((shape["batch"], shape["length"], 1), dtype=np.float32)
    targets = rng.integers(0, shape["classes"], shape["batch"])
    sizes = (shape[key] for key in ("channels", "states", "blocks", "classes"))
    trainer = jax_model.Trainer(*jax_model.random_parameters(*sizes), dropout)
    return lambda: trainer.step(inputs, targets)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose file names are not those of packages
    sys.stdout.write(json.dumps(main(sys.argv[1:])) + "\n")
