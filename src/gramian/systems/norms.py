"""How large a system is: H-infinity norm, frequency and impulse response, simulation."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from gramian.errors import ShapeError
from gramian.systems.gains import Gains, response_of_modes
from gramian.systems.gramians import accurate
from gramian.systems.hankel import hankel_singular_values
from gramian.systems.linear_system import LinearSystem, diagonal_if_accurate
from gramian.systems.precise import log_of_poles

__all__ = [
    "HinfNorm",
    "frequency_response",
    "hinf_norm",
    "impulse_response",
    "simulate",
]

# Of the first grid: uniform frequencies on [0, pi], and what two points leave between them, in bandwidths.
_FINE_GRID = 512, 0.0  # few channels
_GRID, _ROUGH_GRID = (128, 0.25), (128, 0.5)  # many channels; a large tolerance
_ROUGH = 1e-3  # from this tolerance on, a coarser grid and fewer steps
_STEPS, _STEPS_ROUGH = 30, 4
_ROUNDS, _ROUNDS_ROUGH = 40, 8  # of refinement; many channels of nearly equal gain never settle


class HinfNorm(float):
    """An H-infinity norm as measured on a grid, with what is guaranteed about the true one.

    As a number it is the largest gain that was seen: a *lower* estimate, refined until it no longer moved.
    """

    omega: float
    _system: LinearSystem

    def __new__(cls, measured: float, omega: float, system: LinearSystem) -> HinfNorm:
        norm = super().__new__(cls, measured)
        norm.omega, norm._system = omega, system
        return norm

    @property
    def lower(self) -> float:
        """The measured gain: the true norm is at least this."""
        return float(self)

    @cached_property
    def upper(self) -> float:
        """Twice the sum of all Hankel singular values, plus ``||D||``: the true norm is at most this."""
        hsv = hankel_singular_values(self._system, accurate)
        return float(2 * hsv.sum() + torch.linalg.matrix_norm(self._system.D, 2))


def frequency_response(system: LinearSystem, omega: Tensor) -> Tensor:
    """``G(exp(i omega)) = C (I - exp(-i omega) A)^-1 B + D``.

    Parameters
    ----------
    omega
        Frequencies in rad/sample, shape ``(M,)``.

    Returns
    -------
    Tensor
        Shape ``(..., M, H_out, H_in)``, complex128.
    """
    system = system.augmented()
    if system.is_diagonal:
        return response_of_modes(system, omega)
    delay = torch.exp(-1j * omega.to(torch.float64))
    B, C, D = (t.to(torch.complex128) for t in (system.B, system.C, system.D))
    eye = torch.eye(system.order, dtype=torch.complex128)
    pencil = eye - delay[:, None, None] * system.A.to(torch.complex128)[..., None, :, :]
    states = torch.linalg.solve(pencil, B[..., None, :, :].expand(*pencil.shape[:-1], system.n_inputs))
    return C[..., None, :, :] @ states + D[..., None, :, :]


def hinf_norm(system: LinearSystem, rtol: float = 1e-6) -> HinfNorm:
    """The H-infinity norm ``max_omega ||G(exp(i omega))||_2``: the worst gain over all input signals.

    Measured on a uniform grid, together with points at every pole's angle and a bandwidth ``1 - |l|`` to both
    sides, and then refined around the highest peaks until the maximum moves by less than `rtol`. The result
    knows its guaranteed bracket (``norm.lower``, ``norm.upper``).

    Parameters
    ----------
    system
        A single system, not a batch.
    rtol
        Relative change of the maximum at which refinement stops.
    """
    if system.batch_shape:
        raise ShapeError(
            f"'{system.name}' is a batch of shape {tuple(system.batch_shape)}; needed: one system.",
            cure="Measure the systems of a batch one by one.",
        )
    modes = diagonal_if_accurate(system)  # a resolvent costs N operations instead of N^3
    is_rough = rtol >= _ROUGH
    gains_of = Gains(modes, _STEPS_ROUGH if is_rough else _STEPS, is_rough)
    grid = _ROUGH_GRID if is_rough else _FINE_GRID if gains_of.is_direct else _GRID
    omega = _first_grid(modes, _is_complex(system), *grid)
    gains, vectors = gains_of.survey(omega)
    noise = _rounding(modes)
    for _ in range(_ROUNDS_ROUGH if is_rough else _ROUNDS):
        peaks = _unsettled(omega, gains, rtol, noise)[: 4 if is_rough else 8]
        if not len(peaks):
            break
        finer = _beside(omega, peaks, 3 if is_rough else 5)
        beside = peaks.repeat_interleave(len(finer) // len(peaks))
        new, ends = gains_of.measure(finer, None if vectors is None else vectors[:, beside])
        omega, index = torch.cat([omega, finer]).sort()
        gains = torch.cat([gains, new])[index]
        vectors = None if vectors is None else torch.cat([vectors, ends], 1)[:, index]
    return HinfNorm(*gains_of.largest(omega, gains, vectors), system)


def _is_complex(system: LinearSystem) -> bool:
    return not system.real_part and system.A.is_complex()


def _first_grid(system: LinearSystem, whole_circle: bool, count: int, room: float) -> Tensor:
    """`count` uniform points, and three at every pole; no point has another within `room` bandwidths before it.

    Only a few points are looked at closely where channels are many: these should not all be on one peak.
    """
    uniform = torch.linspace(-torch.pi if whole_circle else 0.0, torch.pi, count, dtype=torch.float64)
    logs = system.log_poles if system.is_diagonal else log_of_poles(system.poles)
    width = -torch.expm1(logs.real)
    offsets = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    near = (logs.imag[:, None] + width[:, None] * offsets).flatten()
    near = near - 2 * torch.pi * torch.round(near / (2 * torch.pi))
    if not whole_circle:  # a real system has the same gain at -omega
        near = near.abs()
    omega, index = torch.cat([uniform, near]).sort()
    scale = torch.cat([torch.full_like(uniform, torch.pi / count), width.repeat_interleave(3)])[index]
    return _thinned(omega, scale * room)


def _thinned(omega: Tensor, room: Tensor) -> Tensor:
    """Ascending frequencies without those that are nearer to the one before than the room they ask for."""
    kept, last = [], -torch.inf
    for frequency, wanted in zip(omega.tolist(), room.tolist(), strict=True):
        if frequency - last > wanted:
            kept.append(frequency)
            last = frequency
    return torch.tensor(kept, dtype=torch.float64)


def _unsettled(omega: Tensor, gains: Tensor, rtol: float, noise: float) -> Tensor:
    """Local maxima that may rise between grid points above the highest point, the most promising first.

    What is feared is twice as much as the parabola through a maximum and its neighbours rises, and something for
    neighbours far below, which say little.
    """
    gap = omega.diff().clamp(min=torch.finfo(torch.float64).tiny)
    gap_left, gap_right = torch.cat([gap[:1], gap]), torch.cat([gap, gap[-1:]])
    left, right = torch.cat([gains[1:2], gains[:-1]]), torch.cat([gains[1:], gains[-2:-1]])
    rise, fall = (gains - left) / gap_left, (gains - right) / gap_right
    slope, bend = (rise * gap_right - fall * gap_left) / (gap_left + gap_right), (rise + fall) / (gap_left + gap_right)
    above = torch.where(bend > 0, slope.square() / (4 * bend), 0.0)
    hopes = gains + 2 * above + (2 * gains - left - right) / 16
    hopes = torch.where((gains >= left) & (gains >= right), hopes, 0.0)
    order = hopes.argsort(descending=True, stable=True)
    return order[hopes[order] > gains.max() * (1 + rtol) + noise]


def _beside(omega: Tensor, peaks: Tensor, points: int) -> Tensor:
    """New frequencies in the two intervals beside each of the points with indices `peaks`."""
    left, middle, right = omega[(peaks - 1).clamp(min=0)], omega[peaks], omega[(peaks + 1).clamp(max=len(omega) - 1)]
    inside = torch.linspace(0, 1, points + 2, dtype=torch.float64)[1:-1]
    sides = [start[:, None] + (end - start)[:, None] * inside for start, end in ((left, middle), (middle, right))]
    return torch.cat(sides, 1).flatten()


def _rounding(system: LinearSystem) -> float:
    """How far rounding can move a gain: relative to what it is added up from, ``||b_i|| ||c_i|| / (1 - |l_i|)``."""
    if not system.is_diagonal:
        return 0.0
    b, c = system.B.abs().square().sum(-1).sqrt(), system.C.abs().square().sum(-2).sqrt()
    largest = 1 / -torch.expm1(system.log_poles.real)
    return float(torch.finfo(torch.float64).eps * ((b * c * largest).sum() + torch.linalg.matrix_norm(system.D)))


def impulse_response(system: LinearSystem, length: int) -> Tensor:
    """``D + C B, C A B, C A^2 B, ...``, shape ``(..., length, H_out, H_in)``; real for real systems."""
    full = system.augmented()
    if full.is_diagonal:
        k = torch.arange(length, dtype=torch.float64)
        powers = torch.exp(full.log_poles[..., None, :] * k[:, None])
        response = (full.C[..., None, :, :] * powers[..., None, :]) @ full.B.to(torch.complex128)[..., None, :, :]
    else:
        states, terms = full.B, []
        for _ in range(length):
            terms.append(full.C @ states)
            states = full.A @ states
        response = torch.stack(terms, -3)
    response = response if _is_complex(system) else response.real
    response[..., 0, :, :] += system.D if response.is_complex() else system.D.real
    return response


def simulate(system: LinearSystem, u: Tensor) -> Tensor:
    """The output for input `u`, step by step from a zero state: slow, obvious, and the reference for layers.

    Parameters
    ----------
    u
        Shape ``(..., L, H_in)``.

    Returns
    -------
    Tensor
        Shape ``(..., L, H_out)``, float64, or complex128 for a complex system.
    """
    full = system.augmented()
    u = u.detach().to("cpu", full.B.dtype)
    x = full.B.new_zeros(*full.batch_shape, full.order)
    outputs = []
    for u_k in u.unbind(-2):
        driven = (full.B @ u_k[..., None]).squeeze(-1)
        x = (full.A * x if full.is_diagonal else (full.A @ x[..., None]).squeeze(-1)) + driven
        outputs.append((full.C @ x[..., None] + full.D @ u_k[..., None]).squeeze(-1))
    y = torch.stack(outputs, -2)
    return y if _is_complex(system) else y.real
