"""What must be true of four tensors before they are called a stable system."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gramian.errors import EmptySystemError, NonFiniteSystemError, ShapeError, UnstableSystemError

if TYPE_CHECKING:
    from gramian.systems.linear_system import LinearSystem

__all__ = ["check_finite", "check_shapes", "check_stable"]


def check_shapes(system: LinearSystem) -> None:
    """Raise unless ``A``, ``B``, ``C`` and ``D`` fit together and the system has states, inputs and outputs."""
    A, B, C, D = system.A, system.B, system.C, system.D
    shapes = f"A {tuple(A.shape)}, B {tuple(B.shape)}, C {tuple(C.shape)}"
    shapes += "".join(
        f", {field} {tuple(t.shape)}" for field, t in (("D", D), ("log_poles", system.log_poles)) if t is not None
    )
    needed = (
        "Needed: A (..., N) diagonal or (..., N, N) dense, B (..., N, H_in), C (..., H_out, N), D (..., H_out, H_in); "
        "log_poles, of a diagonal system only, like A."
    )
    if B.ndim < 2 or C.ndim < 2:
        raise ShapeError(f"'{system.name}' has {shapes}.", needed)
    n, batch = B.shape[-2], B.shape[:-2]
    diagonal = A.shape == (*batch, n)
    dense = A.shape == (*batch, n, n)
    fits = (diagonal or dense) and C.shape[:-2] == batch and C.shape[-1] == n
    direct = (C.shape[-2], B.shape[-1])
    fits = fits and (D is None or D.shape in (direct, (*batch, *direct)))
    if not fits or (system.log_poles is not None and (dense or system.log_poles.shape != A.shape)):
        raise ShapeError(f"'{system.name}' has {shapes}.", needed)
    if system.real_part and not diagonal:
        raise ShapeError(
            f"'{system.name}' is dense and has real_part=True.",
            "Only a diagonal system can stand for the real part of a complex one.",
            "Leave real_part out and give real matrices, or diagonalise the system first.",
        )
    if 0 in B.shape or 0 in C.shape:
        raise EmptySystemError(
            f"'{system.name}' has {shapes}: a dimension is zero.",
            "A system needs at least one state, one input and one output.",
        )


def check_finite(system: LinearSystem) -> None:
    """Raise if an entry is NaN or infinite, and say where."""
    for field in ("A", "B", "C", "D", "log_poles"):
        tensor = getattr(system, field)
        if tensor is None:
            continue
        bad = ~torch.isfinite(tensor)
        if bad.any():
            first = tuple(int(i) for i in bad.nonzero()[0])
            raise NonFiniteSystemError(
                f"{int(bad.sum())} of {tensor.numel()} entries of {field} of '{system.name}' are NaN or infinite "
                f"(the first at index {first}).",
                "Training has probably diverged, or a parameter overflowed in its dtype.",
                "Lower the learning rate or train in float32, and go back to a checkpoint from before.",
            )


def check_stable(system: LinearSystem) -> None:
    """Raise unless every pole lies strictly inside the unit circle, judged from the logarithms where they exist."""
    if system.is_diagonal:
        growth = system.log_poles.real
        outside = growth >= 0
        largest = torch.exp(growth).flatten()
    else:
        modulus = system.poles.abs()
        outside = modulus >= 1
        largest = modulus.flatten()
    if outside.any():
        worst = int(largest.argmax())
        raise UnstableSystemError(
            f"{int(outside.sum())} of {outside.numel()} poles of '{system.name}' lie on or outside the unit circle",
            f"(largest |lambda| = {float(largest[worst]):.7g}, state {worst % outside.shape[-1]}), "
            "so its Gramians do not exist.",
            f'Constrain the poles in the layer, or leave it out: Energy(tau=0.01).except_for("{system.name}").',
        )
