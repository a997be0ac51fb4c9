"""How an LRU becomes a linear system and a smaller LRU again, and how its optimizer moments follow."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from gramian.layers.reducible import Spectrum
from gramian.layers.reduction import MomentMap, Reduction
from gramian.layers.truncation import Candidate, truncate
from gramian.systems.linear_system import LinearSystem
from gramian.systems.modes import Modes
from gramian.systems.projections import Choice

__all__ = ["MIN_DECAY", "decay_and_angle", "lru_system", "propose_lru"]

MIN_DECAY = 2.0**-20  # -log|lambda| at least: exp(-MIN_DECAY) is still below 1 in float32, with room for rounding
_MAX_LOG_DECAY = 4.0  # |lambda| below 2e-24 is clamped: as good as zero, and its logarithm stays finite
_MAX_LOG_ANGLE = 4.0  # angles beyond 54 rad are clamped: float32 sine and cosine stay accurate
_MIN_ANGLE = 1e-8  # a real positive pole: theta_log must stay finite
_TRANSPORTED = 0.75  # of the states kept: below it, the poles' first moments say too little about the new poles


def decay_and_angle(nu_log: Tensor, theta_log: Tensor) -> tuple[Tensor, Tensor]:
    """``-log|lambda|`` and the angle of the poles, for any finite parameters where floating point can follow them."""
    return nu_log.clamp(max=_MAX_LOG_DECAY).exp().clamp(min=MIN_DECAY), theta_log.clamp(max=_MAX_LOG_ANGLE).exp()


def lru_system(parameters: Mapping[str, Tensor], realization: str) -> LinearSystem:
    """The linear map of LRU `parameters` in float64."""
    p = {name: tensor.detach().to("cpu", torch.float64) for name, tensor in parameters.items()}
    decay, angle = decay_and_angle(p["nu_log"], p["theta_log"])
    logs = torch.complex(-decay, angle)
    B = torch.complex(p["B_re"], p["B_im"]) * p["gamma_log"].exp()[:, None]
    C = torch.complex(p["C_re"], p["C_im"])
    return LinearSystem(logs.exp(), B, C, torch.diag(p["D"]), logs, realization == "real", "the LRU layer")


def propose_lru(
    parameters: Mapping[str, Tensor], realization: str, rank: int, choose: Choice, spectrum: Spectrum | None = None
) -> Reduction:
    """A smaller LRU with at most `rank` states; see `gramian.layers.truncation.truncate` for when it is refused."""
    old = {name: parameters[name].detach().to("cpu", torch.float64) for name in ("nu_log", "theta_log", "gamma_log")}
    lengths = _typical_length(parameters, "B", dim=1), _typical_length(parameters, "C", dim=0)

    def build(modes: Modes) -> Candidate:
        modes, new = _pack(modes, len(old["nu_log"]), *lengths)
        stored = {name: tensor.to(parameters[name].dtype) for name, tensor in new.items()}
        system = lru_system({**stored, "D": parameters["D"]}, realization)
        return Candidate(stored, _moment_maps(modes, old, new), system)

    return truncate(lru_system(parameters, realization), len(old["nu_log"]), rank, choose, build, spectrum)


def _pack(modes: Modes, d_state: int, typical_B: Tensor, typical_C: Tensor) -> tuple[Modes, dict[str, Tensor]]:
    """LRU parameters of `modes`, in float64, for a layer that had `d_state` of them.

    How a mode's gain is shared out between ``gamma``, B and C is free, and decides how it trains on: the steps of
    Adam do not grow with a parameter, so large entries hardly move any more. Rows of B and columns of C therefore
    keep the length that is typical of the layer (C grows by the root of ``N / N'``, as at initialisation), and all
    the rest goes into ``gamma``, whose logarithm is what is trained.
    """
    decay = (-modes.poles.abs().log()).clamp(MIN_DECAY, math.exp(_MAX_LOG_DECAY))
    angle = torch.remainder(modes.poles.angle(), 2 * torch.pi).clamp(min=_MIN_ANGLE)
    typical_C = typical_C * (d_state / len(modes.poles)) ** 0.5
    length_B, length_C = modes.B.abs().square().sum(1).sqrt(), modes.C.abs().square().sum(0).sqrt()
    gamma = length_B * length_C / (typical_B * typical_C)
    alive = gamma > torch.finfo(torch.float32).tiny
    gamma = torch.where(alive, gamma, (-torch.expm1(-2 * decay)).sqrt())
    modes = modes.scaled(torch.where(alive, typical_B * gamma / length_B, 1.0))
    B = modes.B / gamma[:, None]
    new = {"nu_log": decay.log(), "theta_log": angle.log(), "gamma_log": gamma.log()}
    return modes, new | {"B_re": B.real, "B_im": B.imag, "C_re": modes.C.real, "C_im": modes.C.imag}


def _typical_length(parameters: Mapping[str, Tensor], name: str, dim: int) -> Tensor:
    """The geometric mean of the lengths of all rows (``dim=1``) or columns (``dim=0``) that are not zero."""
    halves = (parameters[f"{name}_{half}"].detach().to("cpu") for half in ("re", "im"))
    length = torch.stack([torch.linalg.vector_norm(t, dim=dim, dtype=torch.float64) for t in halves]).norm(dim=0)
    return length[length > 0].log().mean().nan_to_num(0.0).exp()


def _moment_maps(modes: Modes, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, MomentMap]:
    """With ``x ~ V x'``: gradients of ``B' = W^T B`` are ``V^T g_B``, those of ``C' = C V`` are ``g_C W``."""
    of_poles = _pole_moment_maps(modes, old, new)  # first: it needs much memory for a moment
    s = len(modes.poles)
    gamma_old, gamma_new = old["gamma_log"].exp().repeat(2), new["gamma_log"].exp().repeat(2)
    sign_old = torch.ones_like(gamma_old)
    sign_old[len(gamma_old) // 2 :] = -1.0  # real coordinates hold -Im C
    sign_new = torch.ones_like(gamma_new)
    sign_new[s:] = -1.0
    to_B = (modes.V.mT * gamma_new[:, None]).div_(gamma_old)  # B is stored without gamma
    to_C = (modes.W.mT * sign_new[:, None]).mul_(sign_old)
    maps = {}
    for half, rows in (("re", slice(0, s)), ("im", slice(s, 2 * s))):
        maps[f"B_{half}"] = MomentMap.of(("B_re", "B_im"), to_B[rows], dim=0)
        maps[f"C_{half}"] = MomentMap.of(("C_re", "C_im"), to_C[rows], dim=1)
    return maps | of_poles


def _pole_moment_maps(modes: Modes, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, MomentMap]:
    """Moments of the poles, from how much each old mode takes part in each new one.

    A pole's gradient sees only the diagonal of ``dL/dA``, and the new poles also need the rest: first moments are
    carried over while most states stay, and start from zero below three quarters. Second moments are averages of
    the old ones, weighted by participation, so that steps keep their length.
    """
    direct, mirrored = _participation(modes)
    weight = direct.abs() + mirrored.abs()
    weight = weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    nothing = torch.zeros_like(weight)
    shares = torch.cat([weight, nothing], 1), torch.cat([nothing, weight], 1), weight
    if len(modes.poles) < _TRANSPORTED * len(old["nu_log"]):
        first = [torch.zeros_like(share) for share in shares]
    else:
        first = _pole_gradient_maps(direct, mirrored, old, new)
    pair = ("nu_log", "theta_log")
    return {
        "nu_log": MomentMap(pair, first[0], shares[0]),
        "theta_log": MomentMap(pair, first[1], shares[1]),
        "gamma_log": MomentMap(("gamma_log",), first[2], shares[2]),
    }


def _pole_gradient_maps(
    direct: Tensor, mirrored: Tensor, old: Mapping[str, Tensor], new: Mapping[str, Tensor]
) -> list[Tensor]:
    """From the old gradients of ``nu_log`` and ``theta_log``, stacked, to each of the new ones; of ``gamma_log``."""
    (nu, theta), (nu_new, theta_new) = (decay_and_angle(p["nu_log"], p["theta_log"]) for p in (old, new))
    theta = theta.clamp(min=_MIN_ANGLE)
    poles_old, poles_new = torch.exp(torch.complex(-nu, theta)), torch.exp(torch.complex(-nu_new, theta_new))
    p = poles_new[:, None] * direct / poles_old
    q = poles_new[:, None] * (mirrored / poles_old).conj()
    to_nu = torch.cat([(p.real + q.real) / nu, (q.imag - p.imag) / theta], 1) * nu_new[:, None]
    to_theta = torch.cat([(p.imag + q.imag) / nu, (p.real - q.real) / theta], 1) * theta_new[:, None]
    return [to_nu, to_theta, direct.real + mirrored.real]


def _participation(modes: Modes) -> tuple[Tensor, Tensor]:
    """``dL/d lambda'_j = sum_i direct_ji dL/d lambda_i + conj(sum_i mirrored_ji dL/d lambda_i)``; each ``(s, N)``.

    A new mode is made of old modes and of their conjugates: ``x_i = a_ij x'_j + b_ij conj x'_j``, and back likewise.
    """
    a, b = _complex_parts(modes.V)  # (N, s)
    back, back_mirrored = _complex_parts(modes.W.mT)  # (s, N)
    return a.mT * back, b.mT * back_mirrored.conj()


def _complex_parts(M: Tensor) -> tuple[Tensor, Tensor]:
    """A real matrix on ``(Re x, Im x)`` as ``x -> a x + b conj(x)``."""
    (rr, ri), (ir, ii) = (half.chunk(2, 1) for half in M.chunk(2, 0))
    return torch.complex(rr + ii, ir - ri) / 2, torch.complex(rr - ii, ir + ri) / 2
