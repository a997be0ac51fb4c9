"""Control theory on tensors: linear systems, their Gramians, and what can be left out of them."""

from gramian.systems.drift import Movement, Overlap, hsv_movement, rank_certificate, subspace_overlap
from gramian.systems.gramians import (
    Factors,
    controllability_gramian,
    equilibrated,
    malmquist_takenaka,
    observability_gramian,
)
from gramian.systems.h2 import h2_norm
from gramian.systems.hankel import bound_rank, energy_rank, error_bound, hankel_singular_values
from gramian.systems.linear_system import LinearSystem
from gramian.systems.modes import Modes, fit_to_slots, to_modes
from gramian.systems.norms import HinfNorm, frequency_response, hinf_norm, impulse_response, simulate
from gramian.systems.projections import Keep, Projection, balanced, modal, random, selected, singular_perturbation

__all__ = [
    "Factors",
    "HinfNorm",
    "Keep",
    "LinearSystem",
    "Modes",
    "Movement",
    "Overlap",
    "Projection",
    "balanced",
    "bound_rank",
    "controllability_gramian",
    "energy_rank",
    "equilibrated",
    "error_bound",
    "fit_to_slots",
    "frequency_response",
    "h2_norm",
    "hankel_singular_values",
    "hinf_norm",
    "hsv_movement",
    "impulse_response",
    "malmquist_takenaka",
    "modal",
    "observability_gramian",
    "random",
    "rank_certificate",
    "selected",
    "simulate",
    "singular_perturbation",
    "subspace_overlap",
    "to_modes",
]
