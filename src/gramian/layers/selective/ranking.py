"""What a measure is: states ranked by how much they matter, from what a layer has seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from gramian.layers.selective.signals import Signals

if TYPE_CHECKING:
    from gramian.layers.calibration import Evidence

__all__ = ["Measure", "Observed", "Ranking"]


class Observed(Protocol):
    """What measures need of a layer."""

    def signals(self, x: Tensor) -> Signals:
        """What drives the recurrence for inputs ``(batch, L, d_model)``."""
        ...

    def projection_norms(self) -> tuple[Tensor, Tensor]:
        """Lengths of the rows that make B and C, ``(groups, N)`` each."""
        ...


@dataclass(frozen=True, eq=False)
class Ranking:
    """States or directions, most important first.

    Parameters
    ----------
    values
        ``(N,)``, descending: of what is kept of all groups together.
    order
        The states they belong to, int64 ``(groups, N)``; None for directions that are no single states.
    to_B, to_C
        The directions, as the rows of what B and C are multiplied with, ``(groups, N, N)``; ``to_B to_C^T = I``, but
        for rows of directions that carry nothing, which are zero in both.
    """

    values: Tensor
    order: Tensor | None = None
    to_B: Tensor | None = None
    to_C: Tensor | None = None

    @classmethod
    def of_scores(cls, scores: Tensor) -> Ranking:
        """The ranking of amplitudes ``(groups, N)``.

        They add up over groups, each of which keeps as many: or layers with many groups would seem to need little.
        """
        values, order = scores.double().cpu().sort(dim=-1, descending=True, stable=True)
        return cls(values.sum(0), order)


@dataclass(frozen=True)
class Measure(ABC):
    """How states are ranked, from what a layer has seen."""

    name = ""
    needs_gradient = False
    comparable = False  # whether values of different layers are in one unit

    @abstractmethod
    def ranking(self, layer: Observed, evidence: Evidence, seed: int) -> Ranking:
        """The states of `layer`, most important first."""
