"""Gramians of a stable system, and the factors from which everything else is computed.

The controllability Gramian ``P`` and the observability Gramian ``Q`` solve the Stein equations

    A P A* - P + B B* = 0,        A* Q A - Q + C* C = 0.

For a diagonal ``A = diag(l)`` both have closed forms, ``P_ij = (B B*)_ij / (1 - l_i conj l_j)`` and
``Q_ij = (C* C)_ij / (1 - conj l_i l_j)``. Two routes lead to factors ``P = F_c F_c*``, ``Q = F_o F_o*``:

* `equilibrated`: balance the two diagonals, then eigendecompose. Any system, and exact to
  about ``5e-15 sigma_1`` in *absolute* terms. In general it is ``sigma^2`` that is exact to ``5e-15 sigma_1^2``: where
  modes coincide, a value of zero can come out as ``1e-8 sigma_1``;
* `malmquist_takenaka`: a pivoted recurrence that never forms a Gramian. Diagonal systems only, and every Hankel
  singular value comes out to high *relative* accuracy; and faster than an eigendecomposition.

`accurate`, the default everywhere, takes the second where there are modes.

Nothing here ever adds an epsilon to a Gramian, takes its Cholesky factor, or multiplies ``P`` by ``Q``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gramian.errors import ShapeError
from gramian.systems.linear_system import LinearSystem
from gramian.systems.precise import one_minus_products
from gramian.systems.takenaka import takenaka_factors

__all__ = [
    "Factors",
    "Route",
    "accurate",
    "controllability_factor",
    "controllability_gramian",
    "equilibrated",
    "malmquist_takenaka",
    "observability_gramian",
]

_ROWS = 256  # of a Gramian, made at a time
_DOUBLINGS = 64  # A**(2**64) is zero for every pole that float64 can tell from the unit circle


@dataclass(frozen=True)
class Factors:
    """``P = controllability @ controllability.mH`` and ``Q = observability @ observability.mH``.

    Shapes ``(..., order, k)``, float64 or complex128. A factor of a real Gramian may be complex: see `real`.
    """

    controllability: Tensor
    observability: Tensor

    def real(self) -> Factors:
        """Real factors of the same, real, Gramians: ``Re(F F*) = [Re F, Im F] [Re F, Im F]^T``."""
        if not self.controllability.is_complex():
            return self
        F_c, F_o = self.controllability, self.observability
        return Factors(torch.cat([F_c.real, F_c.imag], -1), torch.cat([F_o.real, F_o.imag], -1))


Route = Callable[[LinearSystem], Factors]


def controllability_gramian(system: LinearSystem) -> Tensor:
    """``P``, the solution of ``A P A* - P + B B* = 0``: what inputs can reach.

    Closed form for a diagonal system, squared Smith iteration for a dense one. Shape
    ``(..., order, order)``; for a real-part system a real matrix in the coordinates ``(Re x, Im x)``.
    """
    if not system.is_diagonal:
        return _stein(system.A, system.B @ system.B.mH)
    logs, B = system.log_poles, system.B
    P = (B @ B.mH) / one_minus_products(logs[..., :, None], logs.conj()[..., None, :])
    if not system.real_part:
        return P if B.is_complex() else P.real
    S = (B @ B.mT) / one_minus_products(logs[..., :, None], logs[..., None, :])
    return _blocks(P.real + S.real, S.imag - P.imag, S.imag + P.imag, P.real - S.real) / 2


def observability_gramian(system: LinearSystem, modes: Tensor | None = None) -> Tensor:
    """``Q``, the solution of ``A* Q A - Q + C* C = 0``: what outputs can see. Shapes as `controllability_gramian`.

    With their indices `modes`, the modes of a single diagonal system are taken in that order.
    """
    if not system.is_diagonal:
        return _stein(system.A.mH, system.C.mH @ system.C)
    logs, C = system.log_poles, system.C
    if modes is not None:
        logs, C = logs[modes], C[:, modes]
    if system.real_part:
        return _real_observability(logs, C)
    Q = (C.mH @ C) / one_minus_products(logs.conj()[..., :, None], logs[..., None, :])
    return Q if C.is_complex() else Q.real


def _real_observability(logs: Tensor, C: Tensor) -> Tensor:
    """``Q`` of a real-part system, a few rows at a time and as far as symmetry does not say it.

    From ``Q_ij = (C* C)_ij / (1 - conj l_i l_j)`` and ``R_ij = (C^T C)_ij / (1 - l_i l_j)``, whose numerators share
    the products of real and imaginary parts, it is ``[[Re(Q + R), -Im(Q + R)], [Im(Q - R), Re(Q - R)]] / 2``.
    """
    C, n = C.to(torch.complex128), C.shape[-1]
    X, Y = C.real.contiguous(), C.imag.contiguous()
    out = X.new_empty(*X.shape[:-2], 2, n, 2, n)
    for start in range(0, n, _ROWS):
        rows, right, beyond = slice(start, start + _ROWS), slice(start, None), slice(start + _ROWS, None)
        one, two = logs[..., rows, None], logs[..., None, right]
        xx, xy, yx, yy = (a[..., rows].mT @ b[..., right] for a in (X, Y) for b in (X, Y))
        Q = torch.complex(xx + yy, xy - yx) / one_minus_products(one.conj(), two)
        R = torch.complex(xx - yy, xy + yx) / one_minus_products(one, two)
        sums, differences = (Q + R) / 2, (Q - R) / 2
        blocks = ((sums.real, -sums.imag), (differences.imag, differences.real))
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            out[..., i, rows, j, right] = blocks[i][j]
            out[..., j, beyond, i, rows] = blocks[i][j][..., _ROWS:].mT
    return out.flatten(-4, -3).flatten(-2)


def _blocks(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.cat([torch.cat([a, b], -1), torch.cat([c, d], -1)], -2)


def _stein(A: Tensor, W: Tensor) -> Tensor:
    """The solution ``X = sum_k A^k W A*^k`` of ``A X A* - X + W = 0``, doubling the number of terms each time."""
    X, power = W, A
    for _ in range(_DOUBLINGS):
        step = power @ X @ power.mH
        X = X + step
        if (step.abs().amax((-2, -1)) <= 1e-18 * X.abs().amax((-2, -1))).all():
            break
        power = power @ power
    return (X + X.mH) / 2


def equilibrated(system: LinearSystem) -> Factors:
    """Factors from eigendecompositions of the two Gramians, brought to equal diagonals first.

    With ``d = (diag Q / diag P)^(1/4)`` the matrices ``d P d`` and ``Q / (d d)`` have the same diagonal, so the
    rounding error of the eigendecomposition (which is relative to the largest entry) does the least harm. Negative
    eigenvalues are rounding errors and are clipped to zero.
    """
    P, Q = controllability_gramian(system), observability_gramian(system)
    p, q = P.diagonal(dim1=-2, dim2=-1).real, Q.diagonal(dim1=-2, dim2=-1).real
    # An uncontrollable or unobservable state: the row of one factor is zero, the other diagonal goes to common size.
    reached, seen = (p > 0)[..., :, None], (q > 0)[..., :, None]
    square = (p * q).amax(-1, keepdim=True)
    p, q = torch.where(p > 0, p, square / q), torch.where(q > 0, q, square / p)
    d = (q / p).nan_to_num(1.0, 1.0, 1.0) ** 0.25
    d = torch.where(d > 0, d, torch.ones_like(d))
    left, right = d[..., :, None], d[..., None, :]
    return Factors(square_root(P * left * right) / left * reached, square_root(Q / left / right) * left * seen)


def square_root(gramian: Tensor) -> Tensor:
    """``F`` with ``F F* = gramian``, negative eigenvalues taken for rounding."""
    values, vectors = torch.linalg.eigh(gramian)
    return vectors * values.clamp(min=0).sqrt()[..., None, :]


def malmquist_takenaka(system: LinearSystem) -> Factors:
    """Factors from the pivoted Malmquist-Takenaka recurrence: no Gramian is formed, small values keep their digits.

    The Malmquist-Takenaka functions are the orthonormal rational basis that Gram-Schmidt makes of the modes
    ``1 / (1 - l z)``; the recurrence peels one mode a step off the inputs that are left. Its differences come from
    logarithms of the poles, so clusters and poles near the unit circle lose nothing. See `gramian.systems.takenaka`.

    Raises
    ------
    ShapeError
        For a dense system, which has no modes to start from.
    """
    _need_poles(system)
    B, C, logs = system.B, system.C.mH, system.log_poles
    widest = max(B.shape[-1], C.shape[-1])
    B, C = (torch.nn.functional.pad(M, (0, widest - M.shape[-1])) for M in (B, C))  # inputs of zero change nothing
    both = _in_coordinates_of(system, torch.stack([logs, logs.conj()]), torch.stack([B, C]))
    return Factors(both[0], both[1])


def controllability_factor(system: LinearSystem) -> Tensor:
    """The factor ``F_c`` of `malmquist_takenaka` alone, at half the cost of both."""
    _need_poles(system)
    return _in_coordinates_of(system, system.log_poles, system.B)


def accurate(system: LinearSystem) -> Factors:
    """The default route: `malmquist_takenaka` where there are modes, `equilibrated` for a dense system."""
    return malmquist_takenaka(system) if system.is_diagonal else equilibrated(system)


def _need_poles(system: LinearSystem) -> None:
    if not system.is_diagonal:
        raise ShapeError(
            f"'{system.name}' is dense; the Malmquist-Takenaka recurrence needs poles.",
            "It builds an orthonormal basis out of the modes of a diagonal system.",
            "Use the route `equilibrated`, or system.diagonalized() first.",
        )


def _in_coordinates_of(system: LinearSystem, logs: Tensor, B: Tensor) -> Tensor:
    """The factor as a real matrix where the system is real."""
    F = takenaka_factors(logs, B.to(torch.complex128), pairs=system.real_part)
    return F.real if F.is_complex() and not system.B.is_complex() else F
