"""Whether the machine was ours: cores that other processes, or other guests of the host, used in the meantime."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Neighbours", "busy_seconds"]

_STAT = Path("/proc/stat")
_USED = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal; not idle and iowait


@dataclass(frozen=True)
class Neighbours:
    """A moment; `cores` tells what the neighbours did since then."""

    at: float
    busy: float
    own: float

    @classmethod
    def now(cls) -> Neighbours | None:
        """None where there is no ``/proc/stat``."""
        if not _STAT.exists():
            return None
        return cls(time.monotonic(), busy_seconds(_STAT.read_text().split("\n", 1)[0]), _own_seconds(os.times()))

    def cores(self, later: Neighbours) -> float:
        """Cores used on average until `later` by anybody but this process and those it waited for."""
        others = (later.busy - self.busy) - (later.own - self.own)
        return max(0.0, others / max(later.at - self.at, 1e-9))


def busy_seconds(line: str) -> float:
    """Seconds of all cores since the start of the machine, from the first line of ``/proc/stat``."""
    ticks = [int(word) for word in line.split()[1:]]
    return sum(ticks[i] for i in _USED) / os.sysconf("SC_CLK_TCK")


def _own_seconds(used: os.times_result | Sequence[float]) -> float:
    return sum(used[:4])
