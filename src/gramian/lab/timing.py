"""Step times of two models as a ratio: alternated in one process, so that the machine's moods hit both alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

__all__ = ["interleaved"]


def interleaved(
    first: Callable[[], object], second: Callable[[], object], rounds: int = 7, warmup: int = 2
) -> dict[str, Any]:
    """Time two callables in turns, A B A B ...

    Returns
    -------
    dict
        ``first`` and ``second``: median, min and max seconds over `rounds`; ``ratio``: the same of first over
        second, pair by pair; ``n``: rounds.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(warmup + rounds):
        for call, seconds in zip((first, second), times, strict=True):
            start = time.perf_counter()
            call()
            if i >= warmup:
                seconds.append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    return {"first": _spread(times[0]), "second": _spread(times[1]), "ratio": _spread(ratios)}


def _spread(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}
