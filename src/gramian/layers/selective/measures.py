"""How much each state of a selective layer matters: measures as values, ``Regression()``, ``Taylor()``, ...

Every measure gives amplitudes, so that the fraction tau of their sum means what it means for Hankel singular values.
None of them bounds an error in advance.
"""

from __future__ import annotations

from gramian.errors import GramianError, did_you_mean
from gramian.layers.selective.joint import Balanced, Regression
from gramian.layers.selective.ranking import Measure, Ranking
from gramian.layers.selective.scores import (
    ContributionEnergy,
    EmpiricalBalance,
    Fisher,
    Magnitude,
    MeanDynamics,
    RandomOrder,
    Taylor,
)

__all__ = [
    "MEASURES",
    "Balanced",
    "ContributionEnergy",
    "EmpiricalBalance",
    "Fisher",
    "Magnitude",
    "MeanDynamics",
    "Measure",
    "RandomOrder",
    "Ranking",
    "Regression",
    "Taylor",
    "measure_named",
]

MEASURES: dict[str, type[Measure]] = {
    m.name: m
    for m in (
        Regression,
        Balanced,
        ContributionEnergy,
        Taylor,
        Fisher,
        EmpiricalBalance,
        MeanDynamics,
        Magnitude,
        RandomOrder,
    )
}


def measure_named(name: str) -> Measure:
    """The measure called `name` in configurations: ``"regression"``, ``"energy"``, ``"taylor"``, ..."""
    if name not in MEASURES:
        raise GramianError(
            f"measure '{name}' was given; needed: one of {', '.join(MEASURES)}.{did_you_mean(name, MEASURES)}"
        )
    return MEASURES[name]()
