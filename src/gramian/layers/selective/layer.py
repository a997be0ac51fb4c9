"""How a layer with a selective recurrence is reduced: states are selected, and mixed where its structure allows it."""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gramian.errors import GramianError, ShapeError
from gramian.layers.calibration import Calibrated, Calibration, Evidence, evaluating
from gramian.layers.reducible import Spectrum, assign_
from gramian.layers.reduction import OutputError, Reduction
from gramian.layers.selective.compensation import compensated
from gramian.layers.selective.equations import Samples
from gramian.layers.selective.layout import Layout, StateChange
from gramian.layers.selective.measures import Balanced, ContributionEnergy, Measure, Ranking, Regression
from gramian.layers.selective.samples import samples
from gramian.layers.selective.signals import Signals
from gramian.systems.projections import Choice, Keep, balanced

__all__ = ["Selective", "SelectiveLayer", "relative_output_error"]


class Selective:
    """A reducible layer made of `signals`, `layout` and `resized_`; everything else follows.

    The bases of our own layers and of adapters for other people's mixers. A subclass says which module is watched
    (`module`), what its input is (`hidden`), and what its output is (`output`).
    """

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The module that owns the parameters."""

    @property
    @abstractmethod
    def d_state(self) -> int:
        """States of each channel now."""

    @abstractmethod
    def signals(self, x: Tensor) -> Signals:
        """What drives the recurrence for inputs ``(batch, L, d_model)``."""

    @abstractmethod
    def layout(self) -> Layout:
        """Where the states are in the parameters."""

    @abstractmethod
    def resized_(self) -> None:
        """Let attributes of the module that hold sizes follow its parameters."""

    def hidden(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """The input of a call of the module, and its mask."""
        return args[0] if args else next(iter(kwargs.values())), None

    def output(self, x: Tensor) -> Tensor:
        """The module's output for inputs ``(batch, L, d_model)``."""
        found = self.module(x)
        return found[0] if isinstance(found, tuple) else found

    def of(self, module: nn.Module) -> Selective:
        """The same view of another module: of a copy of `module`."""
        assert isinstance(module, Selective)
        return module

    def projection_norms(self) -> tuple[Tensor, Tensor]:
        """Lengths of the rows that make B and C, ``(groups, N)`` each, in float64."""
        return self.layout().row_norms(dict(self.module.named_parameters()), self.d_state)

    def spectrum(self) -> Spectrum:
        """Refused: it depends on data."""
        raise _needs_calibration(self.module)

    def calibrated_spectrum(self, evidence: Evidence, calibration: Calibration) -> Spectrum:
        """The amplitudes of the calibration's measure; see `gramian.layers.selective.measures`."""
        measure = calibration.measure or self._default_measure(calibration.mix)
        if isinstance(measure, Balanced) and not self.layout().rotates:
            raise GramianError(
                f"the measure 'balanced' was given for {type(self.module).__name__}.",
                "Its states are forgotten at different rates, or not reached linearly: no projection fits that.",
                "Leave it out for this layer, or use the measure 'regression' or 'energy'.",
            )
        with torch.no_grad():
            ranking = measure.ranking(self, evidence, calibration.seed)
        if not ranking.values.isfinite().all():
            raise GramianError(f"the scores of '{measure.name}' are not finite; needed: finite data and parameters.")
        said = f"{measure.name} ({evidence.tokens} calibration steps; no a-priori guarantee)"
        calibrated = Calibrated(evidence, ranking, calibration.mix, calibration.seed)
        return Spectrum(ranking.values, said, self.d_state, calibrated=calibrated, comparable=measure.comparable)

    @torch.no_grad()
    def propose(self, rank: int, choose: Choice = balanced, spectrum: Spectrum | None = None) -> Reduction:
        """The layer with `rank` states; changes nothing.

        The states are the first of the spectrum's ranking (or the last, or random ones, for ``Keep("smallest")`` and
        ``Keep("random")``). Where B and C reach the recurrence linearly and the calibration says so, they are mixed to
        lose least of the output; held-out sequences, without which this is not done, keep that from fitting noise. The
        reduced layer is run, and its error on calibration and held-out data reported.
        """
        if not 1 <= rank <= self.d_state:
            raise ShapeError(f"rank {rank} was asked of a layer with {self.d_state} states.")
        if spectrum is None or spectrum.calibrated is None:
            raise _needs_calibration(self.module)
        start = time.perf_counter()
        known = spectrum.calibrated
        change = _chosen(known.ranking, rank, choose)
        if change.to_B is not None and not change.to_B.any():  # a dead layer gets no gradient
            return Reduction(self.d_state, self.d_state, rank, {}, {}, None, "no state carries input to the output")
        layout = self.layout()
        if known.mix and layout.mixes and rank < self.d_state and known.evidence.held_out:
            change = compensated(change, self._seen(known, "inputs"), self._seen(known, "held_out"))
        tensors, moments = layout.changed(dict(self.module.named_parameters()), change)
        reduction = Reduction(self.d_state, rank, rank, tensors, moments)
        with evaluating(self.module):
            smaller = self.of(copy.deepcopy(self.module))
            smaller.apply_(reduction)
            errors = OutputError(
                relative_output_error(self, smaller, known.evidence.inputs) or 0.0,
                relative_output_error(self, smaller, known.evidence.held_out),
                spectrum.discarded(rank),
                known.evidence.tokens,
            )
        return Reduction(self.d_state, rank, rank, tensors, moments, errors, "", time.perf_counter() - start)

    def _default_measure(self, mix: bool) -> Measure:
        layout = self.layout()
        if layout.rotates and mix:
            return Balanced()
        return Regression() if layout.mixes and mix else ContributionEnergy()

    def _seen(self, known: Calibrated, which: str) -> Samples:
        sequences = getattr(known.evidence, which)

        kept = list(samples(self.signals, sequences, seed=known.seed, sketch=True))
        return lambda: kept

    def apply_(self, reduction: Reduction) -> None:
        """Become what was proposed, in place; parameters keep their identity."""
        if not reduction.accepted or reduction.before != self.d_state:
            raise ShapeError(
                f"a reduction from {reduction.before} to {reduction.after} states was given to a layer with "
                f"{self.d_state} states{': ' + reduction.reason if reduction.reason else ''}.",
                "A reduction can be applied once, to the layer that proposed it, and only if it was not refused.",
                "Call propose() again and look at reduction.accepted.",
            )
        for name, tensor in reduction.tensors.items():
            old = self.module.get_parameter(name).shape
            if len(old) != tensor.ndim or sum(a != b for a, b in zip(old, tensor.shape, strict=True)) > 1:
                raise ShapeError(
                    f"a reduction with '{name}' of shape {tuple(tensor.shape)} was given to a layer where it has "
                    f"{tuple(old)}.",
                    "It belongs to a layer of another width.",
                    "Apply it to the layer that proposed it.",
                )
        for name, tensor in reduction.tensors.items():
            assign_(self.module.get_parameter(name), tensor)
        self.resized_()


class SelectiveLayer(Selective, nn.Module):
    """A selective layer of our own: the module is the layer itself."""

    @property
    def module(self) -> nn.Module:
        """The layer."""
        return self


def _needs_calibration(module: nn.Module) -> GramianError:
    return GramianError(
        f"the spectrum of {type(module).__name__} depends on data, and no data was given.",
        "Its input and output maps change with every token, so its parameters alone do not say which states matter.",
        "Compressor(..., calibration=Calibration(batches)) or compress_(model, policy, calibration=batches).",
    )


def _chosen(ranking: Ranking, rank: int, choose: Choice) -> StateChange:
    """The states, or directions, that `choose` keeps of a ranking."""
    n = len(ranking.values)
    if choose is balanced or (isinstance(choose, Keep) and choose.which == "largest"):
        kept = torch.arange(rank)
    elif isinstance(choose, Keep) and choose.which == "smallest":
        kept = torch.arange(n - rank, n)
    elif isinstance(choose, Keep):
        kept = torch.randperm(n, generator=torch.Generator().manual_seed(choose.seed))[:rank]
    else:
        raise GramianError(
            f"{choose} was given to a layer that is not time-invariant.",
            "Projections of linear systems do not apply to it; its states are selected and mixed.",
            'Leave `choose` out, or use Keep("largest"), Keep("smallest") or Keep("random").',
        )
    if ranking.order is not None:
        return StateChange(ranking.order[:, kept].sort(-1).values, n)
    assert ranking.to_B is not None
    assert ranking.to_C is not None
    return StateChange(None, n, ranking.to_B[:, kept], ranking.to_C[:, kept])


@torch.no_grad()
def relative_output_error(before: Selective, after: Selective, sequences: list[Tensor]) -> float | None:
    """``||y' - y|| / ||y||`` of the outputs on `sequences`; None where there are none."""
    if not sequences:
        return None
    error = energy = 0.0
    for x in _batches(sequences):
        y = before.output(x)
        error += float((after.output(x) - y).double().square().sum())
        energy += float(y.double().square().sum())
    return (error / energy) ** 0.5 if energy > 0 else 0.0


def _batches(sequences: list[Tensor], most: int = 16) -> Iterator[Tensor]:
    """Sequences of equal length, a few at a time."""
    by_length: dict[int, list[Tensor]] = {}
    for x in sequences:
        by_length.setdefault(len(x), []).append(x)
    for same in by_length.values():
        for start in range(0, len(same), most):
            yield torch.stack(same[start : start + most])
