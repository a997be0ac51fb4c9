"""Short sequences, silent layers and broken parameters: nothing is made worse, or it is found out."""

from __future__ import annotations

import math

import pytest
import torch

from gramian.errors import GramianError
from gramian.layers.calibration import Calibration, Evidence
from gramian.layers.mamba import Mamba
from gramian.layers.reduction import OutputError, Reduction
from gramian.layers.selective.layer import relative_output_error
from gramian.layers.selective.measures import ContributionEnergy, Magnitude, Regression
from selective_zoo import evidence_of, make_layer, make_mamba, sequences, spectrum_of

BOTH = pytest.mark.parametrize("kind", ["mamba", "grouped"])
X = sequences(12, 20)


def measured(reduction: Reduction) -> OutputError:
    assert isinstance(reduction.measurement, OutputError)
    return reduction.measurement


@BOTH
@pytest.mark.parametrize("length", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 12])
def test_very_short_sequences_can_be_calibrated_with(kind: str, length: int, count: int) -> None:
    layer = make_layer(kind)
    x = X[:count, :length]
    evidence = evidence_of(x) if count > 2 else Evidence(list(x), [])
    reduction = layer.propose(2, spectrum=layer.calibrated_spectrum(evidence, Calibration([])))
    assert reduction.accepted
    assert all(t.isfinite().all() for t in reduction.tensors.values())
    assert (measured(reduction).held_out is None) == (count <= 2)


@BOTH
@pytest.mark.parametrize("silent", ["out", "input"])
def test_a_layer_that_puts_out_nothing_through_its_states_is_cut_without_harm(kind: str, silent: str) -> None:
    layer = make_layer(kind)
    if silent == "out":
        torch.nn.init.zeros_(layer.out_proj.weight if isinstance(layer, Mamba) else layer.out.weight)
    spectrum = spectrum_of(layer, X * 0 if silent == "input" else X)
    reduction = layer.propose(2, spectrum=spectrum)
    assert all(t.isfinite().all() and t.any() for t in reduction.tensors.values())
    assert spectrum.values.isfinite().all()
    found = measured(reduction)
    assert math.isfinite(found.calibration)
    assert math.isfinite(found.held_out)


@pytest.mark.parametrize("measure", [None, ContributionEnergy(), Regression(), Magnitude()])
def test_parameters_that_are_not_finite_are_found_out(measure: object) -> None:
    layer = make_mamba()
    with torch.no_grad():
        layer.x_proj.weight[-1, 0] = torch.nan
    with pytest.raises(GramianError, match="not finite"):
        spectrum_of(layer, X, measure=measure)


@BOTH
def test_relative_errors_are_over_all_sequences_together(kind: str) -> None:
    one, two = make_layer(kind), make_layer(kind, seed=1)
    given = [*X[:3], *X[3:6, :7]]
    differences = torch.cat([(two(x[None]) - one(x[None])).flatten() for x in given])
    outputs = torch.cat([one(x[None]).flatten() for x in given])
    expected = float((differences.norm() / outputs.norm()).detach())
    assert relative_output_error(one, two, given) == pytest.approx(expected, rel=1e-10)
    assert relative_output_error(one, one, given) == 0.0
    assert relative_output_error(one, two, []) is None


class Dropping(Mamba):
    """A mixer that drops some of its outputs while it trains."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(super().forward(x), 0.5, self.training)


def test_errors_are_those_of_evaluation_whatever_the_layer_does_in_training() -> None:
    layer = Dropping(4, 6).double().train()
    before = torch.get_rng_state()
    reduction = layer.propose(6, spectrum=spectrum_of(layer, X))
    assert (measured(reduction).calibration, measured(reduction).held_out) == (0.0, 0.0)
    assert torch.equal(torch.get_rng_state(), before)
    assert layer.training
