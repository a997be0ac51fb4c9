"""What a process of its own needs to be measured in; imports nothing but Python's own."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["JAX_ENVIRONMENT", "peak_resident", "seconds_of"]

JAX_ENVIRONMENT: Mapping[str, str] = {
    "JAX_PLATFORMS": "cpu",
    "NPROC": "2",  # XLA's thread pools
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads=2",
}
"""As many threads as torch is given, `gramian.lab.bench.settings.THREADS`."""


def peak_resident() -> int:
    """Largest resident memory of this program so far, bytes.

    On Linux not ``ru_maxrss``, which never falls below that of the process that started it, from before the exec.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def seconds_of(call: Callable[[], object], calls: int) -> list[float]:
    """Seconds of every one of some calls."""
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds
