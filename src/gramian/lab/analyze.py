"""What a trained model's spectra say: how many states each tolerance keeps, and at what bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from gramian.layers.reducible import reducible_layers
from gramian.systems.hankel import energy_rank, error_bound
from gramian.systems.norms import hinf_norm

__all__ = ["analyze"]


def analyze(model: nn.Module, taus: Sequence[float]) -> list[dict[str, Any]]:
    """For every reducible layer its spectrum, norm, and for every ``tau`` the states kept and the relative bound.

    Returns
    -------
    list of dict
        ``layer``, ``d_state``, ``measure``, ``norm`` (measured H-infinity norm), ``values`` (the spectrum) and
        ``kept``: by tau, ``order``, ``d_state`` and ``bound`` (relative to the norm).
    """
    rows = []
    for name, layer in reducible_layers(model).items():
        spectrum = layer.spectrum()
        norm = float(hinf_norm(spectrum.system, rtol=1e-3)) if spectrum.system is not None else float("nan")
        kept = {}
        for tau in taus:
            order = energy_rank(spectrum.values, tau)
            bound = float(error_bound(spectrum.values, order)) / norm if norm > 0 else 0.0
            kept[str(tau)] = {"order": order, "d_state": spectrum.d_state_for(order), "bound": bound}
        rows.append(
            {
                "layer": name,
                "d_state": layer.d_state,
                "measure": spectrum.measure,
                "norm": norm,
                "values": spectrum.values.tolist(),
                "kept": kept,
            }
        )
    return rows
