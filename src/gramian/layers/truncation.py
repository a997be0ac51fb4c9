"""Reduce, cast, measure, and only then offer: what every layer with a linear time-invariant map does alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf

from torch import Tensor

from gramian.errors import GramianError, ShapeError
from gramian.layers.reducible import Spectrum
from gramian.layers.reduction import Measurement, MomentMap, Reduction
from gramian.systems.balancing import balancing, balancing_bytes
from gramian.systems.h2 import h2_distance, h2_norm_and_energy
from gramian.systems.linear_system import LinearSystem
from gramian.systems.modes import Modes, fit_to_slots, to_modes
from gramian.systems.norms import hinf_norm
from gramian.systems.projections import Choice, Projection, project_with, takes_a_basis

__all__ = ["Candidate", "truncate"]

_ROOM = 1.05  # measured error over bound that is still put down to rounding
_ROUNDING = 1e-5  # of the layer's norm: an error that float32 parameters make on their own
_RTOL = 1e-3  # of the measured norms
_MOST_BYTES = 2**27  # of what a projection was made from, kept while the rest of the cut is computed


@dataclass(frozen=True)
class Candidate:
    """A smaller layer as it would be stored: its tensors in the layer's dtype, and the map they really make."""

    tensors: dict[str, Tensor]
    moments: dict[str, MomentMap]
    system: LinearSystem


def truncate(
    fom: LinearSystem,
    d_state: int,
    rank: int,
    choose: Choice,
    build: Callable[[Modes], Candidate],
    spectrum: Spectrum | None = None,
) -> Reduction:
    """A reduction of a layer to at most `rank` states, measured after the cast to the layer's dtype.

    The order that fits is tried first, then one and two more, then one less; the first whose measured H-infinity
    error stays below ``1.05 max(bound, 1e-5 norm)`` is offered. If none does, the reduction is a refusal that says
    why, and the layer stays as it is.

    Parameters
    ----------
    fom
        The layer's linear map.
    d_state
        States the layer has.
    rank
        States it may keep, from 1 to `d_state`.
    choose
        The projection, for instance `gramian.systems.projections.balanced`.
    build
        Makes the stored layer out of modes.
    spectrum
        The spectrum of `fom`, if it is known. One of another system is refused. Matrices that it holds are given up on
        the way if they are large.
    """
    if not 1 <= rank <= d_state:
        raise ShapeError(
            f"rank {rank} was asked of '{fom.name}', which has {d_state} states.", f"Needed: 1 <= rank <= {d_state}."
        )
    start = time.perf_counter()
    spectrum = _checked(spectrum, fom, d_state)
    assert spectrum.system is not None
    fom = spectrum.system  # one copy of it is enough
    before, projection = _prepared(fom, rank * (fom.order // d_state), spectrum, choose)
    if not projection.V.any():  # kept states would all be dead, and a dead layer gets no gradient
        seconds = time.perf_counter() - start
        return Reduction(d_state, d_state, rank, {}, {}, None, "no state carries input to the output", seconds)
    reason = ""
    for modes in _attempts(fom, projection, rank):
        try:
            candidate, modes = build(modes), _without_maps(modes)
            measurement = _measure(before, projection, modes, candidate)
        except GramianError as error:  # the cast made the system unstable or not finite
            reason = reason or f"the reduced layer cannot be stored: {error.given}"
            continue
        allowed = _ROOM * max(measurement.bound, _ROUNDING * before.norm) if measurement.bound is not None else inf
        if measurement.measured <= allowed:
            seconds = time.perf_counter() - start
            return Reduction(
                d_state, len(modes.poles), rank, candidate.tensors, candidate.moments, measurement, "", seconds
            )
        reason = reason or (
            f"measured error {measurement.measured:.3g} exceeds {_ROOM} x bound {measurement.bound:.3g} at order "
            f"{modes.order} (eigenvector condition {modes.condition:.2g})"
        )
    return Reduction(d_state, d_state, rank, {}, {}, None, reason, time.perf_counter() - start)


def _checked(spectrum: Spectrum | None, fom: LinearSystem, d_state: int) -> Spectrum:
    """The spectrum that was given, if it is that of `fom`; one that knows nothing but the system if none was."""
    if spectrum is None:
        return Spectrum(fom.B.new_zeros(0), "", d_state, fom)
    if spectrum.system is None or not fom.equals(spectrum.system):
        raise ShapeError(
            f"the spectrum that was given to propose() is not that of '{fom.name}' as it is now.",
            "The parameters have changed since, or it is the spectrum of another layer.",
            "Call spectrum() again just before propose(), or leave it out.",
        )
    return spectrum


@dataclass(frozen=True)
class _Before:
    """The layer before the cut, and what is measured of it once."""

    fom: LinearSystem
    norm: float
    energy: float  # of all responses without the feed-through
    h2_norm: float


def _prepared(fom: LinearSystem, order: int, spectrum: Spectrum, choose: Choice) -> tuple[_Before, Projection]:
    """The projection, and what is known of the layer; a balancing that is large is gone before the norm is measured."""
    basis = spectrum.balancing
    if basis is None and takes_a_basis(choose):
        basis = balancing(fom)
    h2, energy = h2_norm_and_energy(fom, None if basis is None else basis.times_factor)
    projection = project_with(choose, fom, min(fom.order, order), basis)
    del basis
    if balancing_bytes(fom) > _MOST_BYTES:
        spectrum.release_()
    return _Before(fom, spectrum.norm, float(energy), float(h2)), projection


def _attempts(fom: LinearSystem, projection: Projection, slots: int) -> Iterator[Modes]:
    found = [fit_to_slots(fom, projection, slots)]
    first = found[0].order
    yield found.pop()  # only the caller holds it now
    for order in (first + 1, first + 2, first - 1):
        if 1 <= order <= projection.rank:
            modes = to_modes(fom, projection.leading(order))
            if len(modes.poles) <= slots:
                yield modes


def _without_maps(modes: Modes) -> Modes:
    """What is still needed of modes once a layer has been made of them: their maps are as large as a projection."""
    return replace(modes, V=modes.V.new_empty(0), W=modes.W.new_empty(0))


def _measure(before: _Before, projection: Projection, modes: Modes, candidate: Candidate) -> Measurement:
    leading = projection.leading(modes.order)
    bound, hsv = leading.error_bound, projection.hsv
    return Measurement(
        norm=before.norm,
        bound=None if bound is None else float(bound),
        measured=float(hinf_norm(before.fom - candidate.system, rtol=_RTOL)),
        h2_norm=before.h2_norm,
        h2_error=h2_distance(before.fom, candidate.system, before.energy),
        discarded=None if hsv is None else float(hsv[modes.order :].sum() / hsv.sum()) if hsv.sum() > 0 else 0.0,
        order=modes.order,
        real_poles=modes.real_poles,
        condition=modes.condition,
        max_pole=float(candidate.system.log_poles.real.max().exp()),
    )
