"""What a trained model's spectra say: how many states each tolerance keeps, and at what bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from gramian.layers.calibration import Calibration
from gramian.layers.reducible import Spectrum, reducible_layers
from gramian.layers.spectra import spectra_of
from gramian.systems.hankel import energy_rank, error_bound

__all__ = ["analyze"]


def analyze(model: nn.Module, taus: Sequence[float], calibration: Calibration | None = None) -> list[dict[str, Any]]:
    """For every reducible layer its spectrum, norm, and for every ``tau`` the states kept and the relative bound.

    Parameters
    ----------
    calibration
        For layers whose spectrum depends on data.

    Returns
    -------
    list of dict
        ``layer``, ``d_state``, ``measure``, ``norm`` (measured H-infinity norm), ``values`` (the spectrum) and
        ``kept``: by tau, ``order``, ``d_state`` and ``bound`` (relative to the norm). Layers without a linear
        time-invariant map have neither norm nor bound: None.
    """
    layers = reducible_layers(model)
    spectra = spectra_of(layers, model=model, calibration=calibration)
    return [
        {
            "layer": name,
            "d_state": layers[name].d_state,
            "measure": spectrum.measure,
            "norm": None if spectrum.system is None else spectrum.norm,
            "values": spectrum.values.tolist(),
            "kept": {str(tau): _kept(spectrum, tau) for tau in taus},
        }
        for name, spectrum in spectra.items()
    ]


def _kept(spectrum: Spectrum, tau: float) -> dict[str, float | None]:
    order = energy_rank(spectrum.values, tau)
    bound = None
    if spectrum.system is not None:
        bound = float(error_bound(spectrum.values, order)) / spectrum.norm if spectrum.norm > 0 else 0.0
    return {"order": order, "d_state": spectrum.d_state_for(order), "bound": bound}
