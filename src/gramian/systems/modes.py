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
        Condition number of the eigenvectors of the reduced system.
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
    order that would have fitted, and saves an eigendecomposition for each of the others.
    """
    n = min(projection.rank, 2 * slots if fom.real_part else slots)
    modes = to_modes(fom, projection.leading(n))
    while len(modes.poles) > slots:
        n -= max(1, len(modes.poles) - slots)
        modes = to_modes(fom, projection.leading(n))
    return modes


def to_modes(fom: LinearSystem, projection: Projection) -> Modes:
    """Diagonalise the reduced system and pack its modes into slots.

    Parameters
    ----------
    fom
        The full-order model, a single diagonal system.
    projection
        Made from `fom`.
    """
    rom = fom.project(projection)
    poles, T = torch.linalg.eig(rom.A)
    left = torch.linalg.inv(T)  # rows: left eigenvectors
    condition = float(torch.linalg.cond(T))
    V, W = projection.V.to(torch.complex128) @ T, projection.W.to(torch.complex128) @ left.mH
    B, C = left @ rom.B.to(T.dtype), rom.C.to(T.dtype) @ T
    if not fom.real_part:
        return Modes(poles, B, C, _as_real(V), _as_real(W), rom.order, 0, condition)
    upper, real = poles.imag > 0, poles.imag == 0
    keep = torch.cat([upper.nonzero()[:, 0], real.nonzero()[:, 0]])
    is_pair = upper[keep]
    weight = torch.where(is_pair, 2.0, 1.0)
    V, W = V[:, keep], W[:, keep]
    imaginary = is_pair.to(torch.float64)
    return Modes(
        poles=poles[keep],
        B=torch.where(is_pair[:, None], B[keep], B[keep].real.to(B.dtype)),
        C=torch.where(is_pair, C[:, keep], C[:, keep].real.to(C.dtype)) * weight,
        V=torch.cat([V.real * weight, -V.imag * weight * imaginary], 1),
        W=torch.cat([W.real, -W.imag * imaginary], 1),
        order=rom.order,
        real_poles=int(real.sum()),
        condition=condition,
    )


def _as_real(M: Tensor) -> Tensor:
    """A complex matrix as the real one that acts on ``(Re x, Im x)``."""
    return torch.cat([torch.cat([M.real, -M.imag], 1), torch.cat([M.imag, M.real], 1)], 0)
