"""The spectra of all layers of a model, those of equal shape in one batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gramian.layers.calibration import Calibration, TimeVarying, calibrate
from gramian.layers.reducible import Reducible, Spectrum
from gramian.systems.balancing import (
    Balancing,
    balancing,
    balancing_bytes,
    balancing_values,
    balancings,
    is_better_alone,
)
from gramian.systems.linear_system import LinearSystem

__all__ = ["TimeInvariant", "spectra_of"]

_MOST_BYTES = 2**30  # of what spectra were computed from, kept for the proposals of one cut


@runtime_checkable
class TimeInvariant(Protocol):
    """A reducible layer whose spectrum are the Hankel singular values of its linear map."""

    @property
    def d_state(self) -> int:
        """States the layer has now."""
        ...

    def linear_system(self) -> LinearSystem:
        """The layer's map."""
        ...


def spectra_of(
    layers: Mapping[str, Reducible],
    *,
    for_proposals: bool = False,
    model: nn.Module | None = None,
    calibration: Calibration | None = None,
) -> dict[str, Spectrum]:
    """What ``layer.spectrum()`` says of each of `layers`, without what it was computed from.

    Parameters
    ----------
    model, calibration
        What time-varying layers are part of, and the data that their spectra depend on.
    for_proposals
        Keep these matrices, as ``layer.propose(rank, spectrum=...)`` wants them, for as many layers as have room in a
        gigabyte. Only for a moment: see `Spectrum.light`.
    """
    found = _calibrated(layers, model, calibration)
    if not for_proposals:
        found = {name: spectrum.light() for name, spectrum in found.items()}
    groups: dict[object, list[str]] = {}
    systems: dict[str, LinearSystem] = {}
    for name, layer in layers.items():
        if name in found:
            continue
        system = layer.linear_system() if isinstance(layer, TimeInvariant) else None
        if system is None or system.batch_shape:
            spectrum = layer.spectrum()
            found[name] = spectrum if for_proposals else spectrum.light()
            continue
        systems[name] = system
        shape = (system.B.shape, system.C.shape, system.A.shape, system.A.dtype, system.real_part)
        groups.setdefault(shape, []).append(name)
    room = _MOST_BYTES if for_proposals else 0
    for names in groups.values():
        fitting = min(len(names), room // balancing_bytes(systems[names[0]]))
        room -= fitting * balancing_bytes(systems[names[0]])
        known_of: list[Balancing | Tensor] = [*_balanced([systems[name] for name in names[:fitting]])]
        known_of += _values([systems[name] for name in names[fitting:]])
        for name, known in zip(names, known_of, strict=True):
            found[name] = Spectrum.hankel(systems[name], layers[name].d_state, known)
    return {name: found[name] for name in layers}


def _calibrated(
    layers: Mapping[str, Reducible], model: nn.Module | None, calibration: Calibration | None
) -> dict[str, Spectrum]:
    """The spectra of the time-varying layers; without data, each says itself that it needs some."""
    varying = {name: layer for name, layer in layers.items() if isinstance(layer, TimeVarying)}
    if not varying or model is None or calibration is None:
        return {}
    evidence = calibrate(model, varying, calibration)
    return {name: layer.calibrated_spectrum(evidence[name], calibration) for name, layer in varying.items()}


def _balanced(systems: list[LinearSystem]) -> list[Balancing]:
    if len(systems) < 2 or is_better_alone(systems[0]):
        return [balancing(system) for system in systems]
    return balancings(_stacked(systems))


def _values(systems: list[LinearSystem]) -> list[Tensor]:
    """One at a time where they are large: in a batch, all their factors are in memory together."""
    if len(systems) < 2 or is_better_alone(systems[0]) or len(systems) * balancing_bytes(systems[0]) > _MOST_BYTES:
        return [balancing_values(system) for system in systems]
    return list(balancing_values(_stacked(systems)).clone().unbind())


def _stacked(systems: list[LinearSystem]) -> LinearSystem:
    """Systems of one shape as one batch; each has been checked already, under its own name."""
    A, B, C, D = (torch.stack([getattr(system, key) for system in systems]) for key in ("A", "B", "C", "D"))
    logs = torch.stack([s.log_poles for s in systems]) if systems[0].is_diagonal else None
    return LinearSystem(A, B, C, D, logs, systems[0].real_part, "a batch of layers")  # type: ignore[arg-type]
