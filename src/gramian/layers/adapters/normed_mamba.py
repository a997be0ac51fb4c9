"""Mamba's mixers with a norm on dt, B and C between the projection and the scan.

B and C cannot be mixed through a norm, only selected; and a root mean square over r states is not that over N. With
``rms_N(b)^2 = sum(b^2) / N + eps`` of a b whose other entries are zero,

    b / rms_N(b) = sqrt(N / r) a b / sqrt(sum((a b)^2) / r + eps),      a = sqrt(r / N)

so the rows of the projection take a, and ``sqrt(N / r)`` goes where it can be kept: into the weights of the norm
(Jamba), or, where these are none, out of the scan (FalconMamba): states then put out r / N of what they should, which D
follows and ``out_proj`` makes good. Either way the mixer is exactly the one whose rows of the dropped states are zero.

A norm makes up for what is dropped, in every step by another factor. Its mean is corrected by least squares where the
calibration allows compensation.
"""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gramian.layers.adapters.layouts import MixerLayout
from gramian.layers.adapters.mamba1 import MambaMixerAdapter
from gramian.layers.calibration import Calibrated
from gramian.layers.reducible import Spectrum
from gramian.layers.reduction import OutputError, Reduction
from gramian.layers.selective.equations import paired
from gramian.layers.selective.layer import relative_output_error
from gramian.layers.selective.layout import Fixed, States
from gramian.layers.selective.samples import samples
from gramian.layers.selective.signals import state_output
from gramian.systems.projections import Choice, balanced
from gramian.systems.regression import NormalEquations

__all__ = ["FalconMambaMixerAdapter", "JambaMambaMixerAdapter"]


class NormedMambaAdapter(MambaMixerAdapter):
    """What the mixers with norms have in common."""

    def normalized(self, dt: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        m = self.mixer
        return m.dt_layernorm(dt), m.b_layernorm(B), m.c_layernorm(C)

    @abstractmethod
    def layout(self) -> MixerLayout:
        """Where the states are in the parameters, and what is scaled with their number."""

    @abstractmethod
    def gained(self, effects: Tensor) -> Tensor:
        """What each gain that the mixer can carry multiplies, of the outputs ``(samples, d_out, states)``."""

    @abstractmethod
    def gain_factors(self, gains: Tensor) -> Mapping[str, Tensor]:
        """What parameters are multiplied with to multiply the states' outputs with `gains`."""

    def propose(self, rank: int, choose: Choice = balanced, spectrum: Spectrum | None = None) -> Reduction:
        """The layer with `rank` states, with the gains of the kept ones fitted; changes nothing."""
        start = time.perf_counter()
        plain = super().propose(rank, choose, spectrum)
        if spectrum is None or spectrum.calibrated is None or not spectrum.calibrated.mix or rank == self.d_state:
            return plain
        known, layout = spectrum.calibrated, self.layout()
        gains = self._gains(self._with(plain), known)
        tensors, moments = layout.scaled(plain.tensors, plain.moments, self.gain_factors(gains))
        fitted = replace(plain, tensors=tensors, moments=moments)
        errors = OutputError(
            relative_output_error(self, self._with(fitted), known.evidence.inputs) or 0.0,
            relative_output_error(self, self._with(fitted), known.evidence.held_out),
            spectrum.discarded(rank),
            known.evidence.tokens,
        )
        assert isinstance(plain.measurement, OutputError)
        better = _judged(errors) < _judged(plain.measurement)
        chosen = replace(fitted, measurement=errors) if better else plain
        return replace(chosen, seconds=time.perf_counter() - start)

    def _with(self, reduction: Reduction) -> NormedMambaAdapter:
        smaller = self.of(copy.deepcopy(self.module))
        assert isinstance(smaller, NormedMambaAdapter)
        smaller.apply_(reduction)
        return smaller

    @torch.no_grad()
    def _gains(self, smaller: NormedMambaAdapter, known: Calibrated) -> Tensor:
        """The gains with which the states of `smaller` come nearest to those of this layer."""
        fit = self._equations(smaller, known.evidence.inputs, known.seed)
        judge = self._equations(smaller, known.evidence.held_out, known.seed) if known.evidence.held_out else fit
        return fit.best(judge, torch.ones_like(fit.cross))

    def _equations(self, smaller: NormedMambaAdapter, sequences: list[Tensor], seed: int) -> NormalEquations:
        whole, cut = (samples(layer.signals, sequences, seed=seed) for layer in (self, smaller))
        total: Any = None
        for full, less in zip(whole, cut, strict=True):
            target = state_output(full.signals, full.steps)
            for M, C, y in paired(less.signals, target, less.steps):
                effects = self.gained((M * C[:, :, None, :])[:, 0]).flatten(0, 1).double()
                y = y.flatten().double()
                piece = NormalEquations(effects.mT @ effects, effects.mT @ y, float(y.square().sum()))
                total = piece if total is None else total + piece
        return total


class JambaMambaMixerAdapter(NormedMambaAdapter):
    """transformers' ``JambaMambaMixer``: norms with weights, which carry a gain for each state."""

    size_key = "mamba_d_state"

    def layout(self) -> MixerLayout:
        rank = self.mixer.dt_proj.weight.shape[1]

        def scaling(before: int, after: int) -> dict[str, Tensor]:
            a = (after / before) ** 0.5
            rows = torch.cat([torch.ones(rank), torch.full((2 * after,), a)])
            weights = torch.full((after,), 1 / a)
            return {"x_proj.weight": rows, "b_layernorm.weight": weights, "c_layernorm.weight": weights}

        return MixerLayout(
            {
                "x_proj.weight": (0, (Fixed(rank), States("B"), States("C"))),
                "A_log": (1, (States("A"),)),
                "b_layernorm.weight": (0, (States("B"),)),
                "c_layernorm.weight": (0, (States("C"),)),
            },
            scaling=scaling,
        )

    def projection_norms(self) -> tuple[Tensor, Tensor]:
        """Lengths of the rows that make B and C, times the weights of their norms, ``(1, N)`` each."""
        m, N = self.mixer, self.d_state
        lengths = m.x_proj.weight.detach().double().cpu()[-2 * N :].norm(dim=1)
        weights = torch.cat([m.b_layernorm.weight, m.c_layernorm.weight]).detach().double().cpu().abs()
        B, C = (lengths * weights).split(N)
        return B[None], C[None]

    def gained(self, effects: Tensor) -> Tensor:
        return effects

    def gain_factors(self, gains: Tensor) -> dict[str, Tensor]:
        return {"c_layernorm.weight": gains}


class FalconMambaMixerAdapter(NormedMambaAdapter):
    """transformers' ``FalconMambaMixer``: norms without weights; D and ``out_proj`` carry one gain for all states."""

    size_key = "state_size"

    def layout(self) -> MixerLayout:
        m = self.mixer
        rank = m.dt_proj.weight.shape[1]

        def scaling(before: int, after: int) -> dict[str, Tensor]:
            rows = torch.cat([torch.ones(rank), torch.full((2 * after,), (after / before) ** 0.5)])
            return {"x_proj.weight": rows, **self.gain_factors(torch.tensor(before / after))}

        return MixerLayout(
            {
                "x_proj.weight": (0, (Fixed(rank), States("B"), States("C"))),
                "A_log": (1, (States("A"),)),
                "D": (0, (Fixed(len(m.D)),)),
                "out_proj.weight": (0, (Fixed(len(m.out_proj.weight)),)),
            },
            scaling=scaling,
        )

    def gained(self, effects: Tensor) -> Tensor:
        return effects.sum(-1, keepdim=True)

    def gain_factors(self, gains: Tensor) -> dict[str, Tensor]:
        return {"D": 1 / gains, "out_proj.weight": gains}

    def resized_(self) -> None:
        super().resized_()
        for norm in (self.mixer.b_layernorm, self.mixer.c_layernorm):
            norm.weight = norm.weight.new_ones(self.d_state)  # what the fused kernels want to see


def _judged(errors: OutputError) -> float:
    return errors.calibration if errors.held_out is None else errors.held_out
