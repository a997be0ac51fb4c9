"""How a cost grows: the exponent of a power law, fitted where it has shown itself."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PowerLaw", "fit_power_law"]


@dataclass(frozen=True)
class PowerLaw:
    """``factor * size ** exponent``, fitted to sizes from `first` on."""

    exponent: float
    factor: float
    first: float

    def __call__(self, size: float) -> float:
        return self.factor * size**self.exponent


def fit_power_law(sizes: Sequence[float], costs: Sequence[float]) -> PowerLaw:
    """Least squares of log cost against log size over the upper half of the range of log sizes (at least two points).

    At small sizes constant costs hide the growth. `sizes` are increasing, `costs` positive.
    """
    assert len(sizes) == len(costs) >= 2
    assert min(costs) > 0
    middle = math.sqrt(sizes[0] * sizes[-1])
    upper = [(x, y) for x, y in zip(sizes, costs, strict=True) if x >= middle * (1 - 1e-9)]
    if len(upper) < 2:
        upper = list(zip(sizes, costs, strict=True))[-2:]
    slope, intercept = statistics.linear_regression([math.log(x) for x, _ in upper], [math.log(y) for _, y in upper])
    return PowerLaw(slope, math.exp(intercept), upper[0][0])
