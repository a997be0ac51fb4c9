"""Spectra and their drift while a model trains: what the run folder keeps of every look."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from gramian.compression.policies import Policy
from gramian.lab.files import write_tensors
from gramian.layers.reducible import Spectrum
from gramian.systems.drift import hsv_movement, subspace_overlap
from gramian.systems.gramians import equilibrated

__all__ = ["SpectrumLog", "drift"]


class SpectrumLog:
    """``spectra.safetensors``: one row of values for every layer and step, under ``layer/step``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tensors: dict[str, Tensor] = load_file(path) if path.exists() else {}

    def add(self, step: int, spectra: Mapping[str, Spectrum]) -> None:
        """Add the spectra of all layers at `step`, and write the file anew."""
        self._tensors |= {f"{layer}/{step:08d}": spectrum.values for layer, spectrum in spectra.items()}
        write_tensors(self.path, self._tensors)

    @property
    def keys(self) -> list[str]:
        """What has been written, as ``layer/step``."""
        return list(self._tensors)

    def keep(self, keys: Collection[str]) -> None:
        """Drop all but `keys`: a resumed run writes the others again."""
        kept = {key: value for key, value in self._tensors.items() if key in keys}
        if len(kept) < len(self._tensors):
            self._tensors = kept
            write_tensors(self.path, kept)


def drift(before: Mapping[str, Spectrum], after: Mapping[str, Spectrum], policy: Policy) -> dict[str, float]:
    """How far every layer's spectrum and dominant subspaces moved between two looks without a cut between them.

    Keys ``drift/past``, ``drift/future`` (subspace overlap at the rank the policy would keep), ``drift/moved``,
    ``drift/bound`` (movement of the Hankel singular values and what the difference system allows, both relative to
    their sum) and ``drift/rank`` (states the policy would keep), each followed by ``/layer``.
    """
    row: dict[str, float] = {}
    ranks = policy(after)
    for layer, now in after.items():
        was = before[layer]
        row[f"drift/rank/{layer}"] = ranks[layer]
        if was.system is None or now.system is None or not now.values.any():  # no map, or a dead layer
            continue
        order = min(len(now.values), ranks[layer] * (len(now.values) // now.d_state))
        overlap = subspace_overlap(was.system, now.system, order)
        movement = hsv_movement(was.system, now.system, equilibrated)
        total = float(now.values.sum())
        row[f"drift/past/{layer}"], row[f"drift/future/{layer}"] = overlap.past, overlap.future
        row[f"drift/moved/{layer}"], row[f"drift/bound/{layer}"] = movement.total / total, movement.nuclear / total
    return row
