"""Back from a reduced system to complex modes, the form in which layers store their states.

A reduced real system of order n has conjugate pairs of poles and real poles. A *slot* holds one complex mode of a
layer with output ``Re(C x)``: of a conjugate pair the slot keeps the member with Im > 0 and twice its C; a real pole
takes a whole slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gramian.systems.linear_system import LinearSystem
from gramian.systems.projections import Projection

__all__ = ["Modes", "fit_to_slots", "to_modes"]

_LANCZOS_STEPS = 12
_MANY, _VERY_MANY = 100, 400  # states
_REAL = 1e-3  # of a bandwidth from the real axis: then a pole is a real one


@dataclass(frozen=True)
class Modes:
    """A reduced layer in complex modes, with the maps between its states and those of the layer it came from.

    Parameters
    ----------
    poles, B, C
        Shapes ``(s,)``, ``(s, H_in)``, ``(H_out, s)``, complex128; the output is ``Re(C x)`` (or ``C x``, for a
        complex realisation).
    V, W
        Real, ``(2N, 2s)``, in the coordinates ``(Re x, Im x)`` on both sides: ``x ~ V x'`` and ``x' = W^T x``.
    order
        Order of the reduced system before it was packed.
    real_poles
        How many slots hold a real pole.
    condition
        Condition number of the eigenvectors of the reduced system, estimated from below to a percent or so.
    """

    poles: Tensor
    B: Tensor
    C: Tensor
    V: Tensor
    W: Tensor
    order: int
    real_poles: int
    condition: float

    def scaled(self, scale: Tensor) -> Modes:
        """The same modes with ``B`` multiplied and ``C`` divided by a positive `scale`, shape ``(s,)``."""
        both = torch.cat([scale, scale])
        return Modes(
            self.poles,
            self.B * scale[:, None],
            self.C / scale,
            self.V / both,
            self.W * both,
            self.order,
            self.real_poles,
            self.condition,
        )


def fit_to_slots(fom: LinearSystem, projection: Projection, slots: int) -> Modes:
    """A leading part of `projection` whose modes fit into `slots` slots, and nearly the largest.

    Starts at order ``2 slots`` (a real-part system; ``slots`` otherwise) and lowers it while real poles, each of
    which takes a slot of its own, make the modes too many: by one for each mode too many, which can step over an
    order that would have fitted, and saves an eigendecomposition for each of the others. A small system is asked for
    its poles before its modes are computed. A large one nearly always has real poles: their number is guessed first, at
    the price of a state or two. In a very large one, where a slot is little and an eigendecomposition much, the order
    is lowered as if it kept all real poles it turns out to have.
    """
    reduced = projection.reduced(fom)
    n, stride = min(projection.rank, 2 * slots if fom.real_part else slots), 1
    if n >= _MANY and fom.real_part:
        n, stride = n - max(0, n + _guessed_real_poles(fom) - 2 * slots), 2 if n >= _VERY_MANY else 1
    while n < _MANY and (excess := _count_of_modes(fom, reduced[0][:n, :n]) - slots) > 0:
        n -= excess
    modes = to_modes(fom, projection.leading(n), reduced)
    while len(modes.poles) > slots:
        n -= max(1, stride * (len(modes.poles) - slots))
        modes = to_modes(fom, projection.leading(n), reduced)
    return modes


def _count_of_modes(fom: LinearSystem, A: Tensor) -> int:
    """How many slots a reduced system takes, from its poles alone: a third of what its modes cost."""
    poles = torch.linalg.eigvals(A)
    return int((poles.imag >= 0).sum()) if fom.real_part else len(poles)


def _guessed_real_poles(fom: LinearSystem) -> int:
    """How many poles of a reduced system may be real: half of those that are, a third of those that could be, two more.

    Pairs merge on the real axis if they are nearer to it than a bandwidth; a third of them did in layers as
    they are initialised, to half orders.
    """
    angle, width = fom.log_poles.imag, -torch.expm1(fom.log_poles.real)
    away = (angle - torch.pi * torch.round(angle / torch.pi)).abs()
    real = int((away < _REAL * width).sum())
    near = int((away < width).sum()) - real
    return real // 2 + (max(2, 2 * round(0.15 * near)) + 2 if near else 0)


def to_modes(fom: LinearSystem, projection: Projection, reduced: tuple[Tensor, Tensor, Tensor] | None = None) -> Modes:
    """Diagonalise the reduced system and pack its modes into slots.

    Parameters
    ----------
    fom
        The full-order model, a single diagonal system.
    projection
        Made from `fom`.
    reduced
        ``projection.reduced(fom)``, of this projection or of one that it is the leading part of, if it is known.
    """
    n = projection.rank
    A, B_r, C_r = reduced or projection.reduced(fom)
    A, B_r, C_r = A[:n, :n], B_r[:n], C_r[:, :n]
    poles, T = torch.linalg.eig(A)
    if not fom.real_part:
        left = torch.linalg.inv(T)  # rows: left eigenvectors
        V, W = projection.V.to(T.dtype) @ T, projection.W.to(T.dtype) @ left.mH
        B, C = left @ B_r.to(T.dtype), C_r.to(T.dtype) @ T
        return Modes(poles, B, C, _as_real(V), _as_real(W), len(poles), 0, _condition(T, left))
    upper, real = (poles.imag > 0).nonzero()[:, 0], (poles.imag == 0).nonzero()[:, 0]
    pairs, root = len(upper), 0.5**0.5
    # Eigenvectors of pairs as [Re v, Im v] / root: a unitary matrix away from [v, conj v], and all matrices stay real.
    T = torch.cat([T.real[:, upper] / root, T.imag[:, upper] / root, T.real[:, real]], 1)
    left = torch.linalg.inv(T)
    # z = (p - i q) root for the coordinates (p, q) of a pair, of which the slot stands for both.
    columns, rows = projection.V @ T, left @ projection.W.mT
    V, W = columns.split([pairs, pairs, len(real)], 1), rows.split([pairs, pairs, len(real)])
    nothing = torch.zeros_like(V[2])
    C, B = (C_r @ T).split([pairs, pairs, len(real)], 1), (left @ B_r).split([pairs, pairs, len(real)])
    return Modes(
        poles=torch.cat([poles[upper], poles[real]]),
        B=torch.cat([torch.complex(B[0], -B[1]) * root, B[2].to(poles.dtype)]),
        C=torch.cat([torch.complex(C[0], C[1]) / root, C[2].to(poles.dtype)], 1),
        V=torch.cat([V[0] / root, V[2], V[1] / -root, nothing], 1),
        W=torch.cat([W[0] * root, W[2], W[1] * -root, nothing.mT]).mT,
        order=len(poles),
        real_poles=len(real),
        condition=_condition(T, left),
    )


def _condition(T: Tensor, inverse: Tensor) -> float:
    """``||T|| ||T^-1||`` in the spectral norm, by a few steps of Lanczos each: to a percent or so, from below."""
    return _spectral_norm(T) * _spectral_norm(inverse)


def _spectral_norm(M: Tensor) -> float:
    """The largest singular value: of the vectors that come from multiplying by ``M* M``, the one that grows most."""
    start = torch.randn(M.shape[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(M.dtype)
    basis = [start / torch.linalg.vector_norm(start)]
    images = [M @ basis[0]]
    for _ in range(1, min(_LANCZOS_STEPS, M.shape[-1])):
        v = M.mH @ images[-1]
        for _ in range(2):
            known = torch.stack(basis, 1)
            v = v - known @ (known.mH @ v)
        length = torch.linalg.vector_norm(v)
        if not length > 1e-14 * torch.linalg.vector_norm(images[-1]) ** 2:
            break
        basis.append(v / length)
        images.append(M @ basis[-1])
    return float(torch.linalg.matrix_norm(torch.stack(images, 1), 2))


def _as_real(M: Tensor) -> Tensor:
    """A complex matrix as the real one that acts on ``(Re x, Im x)``."""
    return torch.cat([torch.cat([M.real, -M.imag], 1), torch.cat([M.imag, M.real], 1)], 0)
