"""How large a system is: H-infinity and H2 norms, frequency and impulse response, simulation."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from gramian.errors import ShapeError
from gramian.systems.gramians import Route, equilibrated, malmquist_takenaka, observability_factor
from gramian.systems.hankel import hankel_singular_values
from gramian.systems.linear_system import LinearSystem, diagonal_if_accurate
from gramian.systems.precise import log_of_poles, one_minus_products

__all__ = ["HinfNorm", "frequency_response", "h2_norm", "hinf_norm", "impulse_response", "simulate"]

_UNIFORM = 512  # frequencies of the first, uniform grid on [0, pi]
_CHUNK_ENTRIES = 2**22  # complex numbers held at once while a grid is evaluated
_EXACT_SVD = 32  # up to this many channels the gain is an SVD, beyond it subspace iteration
_ITERATIONS = 12
_SCREENED = 64  # frequencies measured at a time, the most promising first


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
        route = malmquist_takenaka if self._system.is_diagonal else equilibrated
        hsv = hankel_singular_values(self._system, route)
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
    delay = torch.exp(-1j * omega.to(torch.float64))
    B, C, D = (t.to(torch.complex128) for t in (system.B, system.C, system.D))
    if system.is_diagonal:
        weights = _resolvent(system, omega)
        return (C[..., None, :, :] * weights[..., None, :]) @ B[..., None, :, :] + D[..., None, :, :]
    eye = torch.eye(system.order, dtype=torch.complex128)
    pencil = eye - delay[:, None, None] * system.A.to(torch.complex128)[..., None, :, :]
    states = torch.linalg.solve(pencil, B[..., None, :, :].expand(*pencil.shape[:-1], system.n_inputs))
    return C[..., None, :, :] @ states + D[..., None, :, :]


def _resolvent(system: LinearSystem, omega: Tensor) -> Tensor:
    """``1 / (1 - exp(-i omega) l)``, shape ``(..., M, N)``, from logarithms: exact next to a pole on the circle."""
    return 1 / one_minus_products(system.log_poles[..., None, :], -1j * omega.to(torch.float64)[:, None])


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
    original = system
    system = _for_gains(system)
    omega = _first_grid(system, whole_circle=_is_complex(original))
    gains = _gains(system, omega)
    noise = (
        torch.finfo(torch.float64).eps * _terms(system, _resolvent(system, omega)).max() if system.is_diagonal else 0
    )
    settled = 0
    for _ in range(40):
        before = gains.max()
        finer = _between_peaks(omega, gains)
        omega, index = torch.cat([omega, finer]).sort()
        gains = torch.cat([gains, _gains(system, finer)])[index]
        # Once can be chance: the highest point was nearer to the peak than any of the new ones.
        settled = settled + 1 if gains.max() - before <= rtol * gains.max() + noise else 0
        if settled == 2:
            break
    peak = int(gains.argmax())
    return HinfNorm(float(gains[peak]), float(omega[peak]), original)


def _is_complex(system: LinearSystem) -> bool:
    return not system.real_part and system.A.is_complex()


def _for_gains(system: LinearSystem) -> LinearSystem:
    """Complex, and diagonal where that is accurate: a resolvent costs N operations instead of N^3."""
    system = diagonal_if_accurate(system.augmented())
    return LinearSystem(system.A.to(torch.complex128), system.B, system.C, system.D, system.log_poles, name=system.name)


def _first_grid(system: LinearSystem, whole_circle: bool) -> Tensor:
    uniform = torch.linspace(-torch.pi if whole_circle else 0.0, torch.pi, _UNIFORM, dtype=torch.float64)
    logs = system.log_poles if system.is_diagonal else log_of_poles(system.poles)
    width = -torch.expm1(logs.real)
    offsets = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
    near = (logs.imag[:, None] + width[:, None] * offsets).flatten()
    near = near - 2 * torch.pi * torch.round(near / (2 * torch.pi))
    if not whole_circle:  # a real system has the same gain at -omega
        near = near.abs()
    return torch.cat([uniform, near]).sort()[0]


def _between_peaks(omega: Tensor, gains: Tensor, peaks: int = 8, points: int = 9) -> Tensor:
    """New frequencies in the two intervals beside each of the highest local maxima."""
    padded = torch.nn.functional.pad(gains, (1, 1), value=-1.0)
    is_peak = (gains >= padded[:-2]) & (gains >= padded[2:])
    best = torch.where(is_peak, gains, -1.0).topk(min(peaks, len(gains))).indices
    left, right = omega[(best - 1).clamp(min=0)], omega[(best + 1).clamp(max=len(omega) - 1)]
    inside = torch.linspace(0, 1, points + 2, dtype=torch.float64)[1:-1]
    return (left[:, None] + (right - left)[:, None] * inside).flatten()


def _gains(system: LinearSystem, omega: Tensor) -> Tensor:
    """``||G(exp(i omega))||_2``, shape ``(M,)``; 0 where the Frobenius norm rules out a maximum."""
    if not system.is_diagonal:
        parts = omega.split(max(1, _CHUNK_ENTRIES // system.order**2))
        return torch.cat([_gain_by_svd(system, part) for part in parts])
    many_channels = min(system.n_inputs, system.n_outputs) > _EXACT_SVD
    measure, rounds = (_gain_by_iteration, 2) if many_channels else (_gain_by_svd, 8)
    ceiling = _ceilings(system, omega)
    gains = torch.zeros_like(omega)
    for part in ceiling.argsort(descending=True).split(_SCREENED)[:rounds]:
        part = part[ceiling[part] > gains.max()]
        if not len(part):
            break
        gains[part] = measure(system, omega[part])
    return gains


def _gain_by_svd(system: LinearSystem, omega: Tensor) -> Tensor:
    return torch.linalg.svdvals(frequency_response(system, omega))[..., 0]


def _ceilings(system: LinearSystem, omega: Tensor) -> Tensor:
    """Frobenius norms, rounded up by what rounding may have taken: no gain is larger.

    ``||G||_F^2 = w* ((B B*) o (C* C)^T) w + 2 Re tr(D* C diag(w) B) + ||D||_F^2`` with ``w`` the resolvent. For the
    difference of two nearly equal systems the terms cancel, and what is left of them is rounding.
    """
    w = _resolvent(system, omega)
    B, C, D = system.B, system.C, system.D
    coupling = (B @ B.mH) * (C.mH @ C).mT
    quadratic = ((w @ coupling) * w.conj()).sum(-1).real
    linear = w @ ((B @ D.mH) * C.mT).sum(-1)
    rounding = 8 * system.order * torch.finfo(torch.float64).eps * _terms(system, w).square()
    return ((quadratic + 2 * linear.real + D.abs().square().sum()).clamp(min=0) + rounding).sqrt()


def _terms(system: LinearSystem, w: Tensor) -> Tensor:
    """``sum_i |w_i| ||b_i|| ||c_i|| + ||D||_F``: what gains are added up from, and their rounding is relative to."""
    b, c = system.B.abs().square().sum(-1).sqrt(), system.C.abs().square().sum(-2).sqrt()
    return w.abs() @ (b * c) + system.D.abs().square().sum().sqrt()


def _gain_by_iteration(system: LinearSystem, omega: Tensor) -> Tensor:
    """The largest singular value by block power iteration on the factors: never forms G, never overestimates."""
    weights = _resolvent(system, omega).mT[..., None]  # (N, M, 1)
    B, C, D = system.B, system.C, system.D.to(system.B.dtype)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(system.n_inputs, 1, 4, dtype=torch.complex128, generator=generator).expand(-1, len(omega), -1)
    gain = torch.zeros_like(omega)
    for _ in range(_ITERATIONS):
        x = torch.linalg.qr(x.transpose(0, 1))[0].transpose(0, 1)
        y = _times(C, weights * _times(B, x)) + _times(D, x)
        gain = torch.linalg.svdvals(y.transpose(0, 1))[..., 0]
        x = _times(B.mH, weights.conj() * _times(C.mH, y)) + _times(D.mH, y)
    return gain


def _times(matrix: Tensor, blocks: Tensor) -> Tensor:
    """`matrix` times blocks of vectors (H, M, k), as one matrix product."""
    return (matrix @ blocks.flatten(1)).unflatten(1, blocks.shape[1:])


def h2_norm(system: LinearSystem, route: Route | None = None) -> Tensor:
    """The H2 norm: root of the sum of squares of the impulse response; exact, from a Gramian factor.

    ``||G||_2^2 = ||C B + D||_F^2 + ||F_o* A B||_F^2``, the first response and the sum of all later ones with
    ``Q = F_o F_o*``: sums of squares, so that small norms of difference systems keep their digits. Shape ``(...)``,
    float64.
    """
    if route is None and system.is_diagonal:
        F = observability_factor(system)
    else:
        F = (route or equilibrated)(system).observability
    B, C = system.input_output_matrices()
    first = C @ B + (system.D.real if system.real_part else system.D)
    later = F.mH @ system.times_A(B).to(F.dtype)
    return (first.abs().square().sum((-2, -1)) + later.abs().square().sum((-2, -1))).sqrt()


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
