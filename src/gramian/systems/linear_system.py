"""A stable linear system as a value: check it once, then subtract, project and measure it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gramian.errors import GramianError, ShapeError
from gramian.systems.checks import check_finite, check_shapes, check_stable
from gramian.systems.precise import log_of_poles

if TYPE_CHECKING:
    from gramian.systems.projections import Reducer

__all__ = ["LinearSystem", "diagonal_if_accurate"]

_WELL_CONDITIONED = 1e4  # a dense system is diagonalised unasked only if that costs at most four digits
_DEFECTIVE = 1e15  # eigenvectors that float64 cannot tell from linearly dependent ones


@dataclass(frozen=True, eq=False)
class LinearSystem:
    """A stable discrete-time system ``x[k] = A x[k-1] + B u[k]``, ``y[k] = C x[k] + D u[k]``.

    The input enters the new state, as in state space layers, so the transfer function is
    ``G(z) = C (I - A/z)^-1 B + D``. Everything is kept in float64 / complex128 on the CPU, detached from autograd.
    Systems can be added and subtracted: ``fom - rom`` is the error system.

    Parameters
    ----------
    A
        Poles of a diagonal system, shape ``(..., N)``, or a dense matrix, shape ``(..., N, N)``.
    B, C
        Input matrix ``(..., N, H_in)`` and output matrix ``(..., H_out, N)``.
    D
        Feed-through ``(..., H_out, H_in)``; zero if not given.
    log_poles
        ``log(A)`` of a diagonal system, shape ``(..., N)``, where the caller knows it better than ``A`` can say it:
        near the unit circle ``1 - |lambda|`` is what counts, and ``A`` alone has already rounded it.
    real_part
        The output is ``y = Re(C x) + D u`` (diagonal systems only). Such a system is *real* and has ``order`` 2N: a
        complex mode stands for itself and its conjugate. Its Gramians and projections are real matrices in the
        coordinates ``(Re x, Im x)``.
    name
        What error messages call the system.

    Raises
    ------
    ShapeError, EmptySystemError, NonFiniteSystemError, UnstableSystemError
        When the tensors do not make a stable system.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor = None  # type: ignore[assignment]  # zero if not given; a tensor from __post_init__ on
    log_poles: Tensor = None  # type: ignore[assignment]  # from A if not given; None for a dense system
    real_part: bool = False
    name: str = "the system"

    def __post_init__(self) -> None:
        check_shapes(self)
        is_complex = any(t is not None and t.is_complex() for t in (self.A, self.B, self.C, self.D))
        dtype = torch.complex128 if is_complex else torch.float64
        D = self.B.new_zeros(self.n_outputs, self.n_inputs) if self.D is None else self.D
        stored = {
            "A": self.A,
            "B": self.B,
            "C": self.C,
            "D": D.expand(*self.batch_shape, self.n_outputs, self.n_inputs),
        }
        for field, tensor in stored.items():
            object.__setattr__(self, field, tensor.detach().to("cpu", dtype, copy=True))
        logs: Tensor | None = self.log_poles
        if logs is not None:
            object.__setattr__(self, "log_poles", logs.detach().to("cpu", torch.complex128, copy=True))
        check_finite(self)
        if self.is_diagonal and logs is None:
            object.__setattr__(self, "log_poles", log_of_poles(self.A))
        check_stable(self)

    @property
    def is_diagonal(self) -> bool:
        """Whether ``A`` holds poles rather than a dense matrix."""
        return self.A.ndim == self.B.ndim - 1

    @property
    def batch_shape(self) -> torch.Size:
        """The leading dimensions: one system for each index."""
        return self.B.shape[:-2]

    @property
    def order(self) -> int:
        """How many states the system has; a real-part system counts a mode and its conjugate."""
        return self.B.shape[-2] * (2 if self.real_part else 1)

    @property
    def n_inputs(self) -> int:
        return self.B.shape[-1]

    @property
    def n_outputs(self) -> int:
        return self.C.shape[-2]

    @property
    def poles(self) -> Tensor:
        """Eigenvalues of ``A``, shape ``(..., order)``, complex128."""
        if not self.is_diagonal:
            return torch.linalg.eigvals(self.A)
        poles = self.A.to(torch.complex128)
        return torch.cat([poles, poles.conj()], -1) if self.real_part else poles

    def augmented(self) -> LinearSystem:
        """A real-part system as the plain diagonal one of order 2N with every mode beside its conjugate.

        ``Re(C x) = [C, conj C] [x; conj x] / 2``; the factor 1/2 is shared evenly by ``B`` and ``C``, which makes
        the step to the coordinates ``(Re x, Im x)`` unitary. Any other system is returned as it is.
        """
        if not self.real_part:
            return self
        half = 0.5**0.5
        B, C = self.B.to(torch.complex128) * half, self.C.to(torch.complex128) * half
        return LinearSystem(
            A=self.poles,
            B=torch.cat([B, B.conj()], -2),
            C=torch.cat([C, C.conj()], -1),
            D=self.D.real.to(torch.complex128),
            log_poles=torch.cat([self.log_poles, self.log_poles.conj()], -1),
            name=self.name,
        )

    def times_A(self, V: Tensor) -> Tensor:
        """``A V`` for ``V`` (..., order, k); for a real-part system in the coordinates ``(Re x, Im x)``."""
        if not self.is_diagonal:
            return self.A @ V.to(self.A.dtype)
        A = self.A[..., :, None]
        if not self.real_part:
            return A * V
        upper, lower = V.real.chunk(2, -2) if V.is_complex() else V.chunk(2, -2)
        re, im = (A.real, A.imag) if A.is_complex() else (A, torch.zeros_like(A))
        return torch.cat([re * upper - im * lower, im * upper + re * lower], -2)

    def input_output_matrices(self) -> tuple[Tensor, Tensor]:
        """``B`` and ``C``; for a real-part system in the coordinates ``(Re x, Im x)``."""
        if not self.real_part:
            return self.B, self.C
        B, C = self.B.to(torch.complex128), self.C.to(torch.complex128)
        return torch.cat([B.real, B.imag], -2), torch.cat([C.real, -C.imag], -1)

    def real_coordinates(self) -> LinearSystem:
        """A real-part system as the real dense one of order 2N with state ``(Re x, Im x)``; others as they are."""
        if not self.real_part:
            return self
        A = self.times_A(torch.eye(self.order, dtype=torch.float64))
        return LinearSystem(A, *self.input_output_matrices(), self.D.real, name=self.name)

    def dense(self) -> LinearSystem:
        """The same system with ``A`` as a matrix (real, of order 2N, for a real-part system)."""
        if self.real_part:
            return self.real_coordinates()
        if not self.is_diagonal:
            return self
        return LinearSystem(torch.diag_embed(self.A), self.B, self.C, self.D, name=self.name)

    def diagonalized(self) -> tuple[LinearSystem, Tensor]:
        """The same system with a diagonal ``A``, and the condition number of the eigenvectors, shape ``(...)``.

        About ``log10`` of that number is how many of the 16 digits are lost on the way.

        Raises
        ------
        GramianError
            When ``A`` has no basis of eigenvectors.
        """
        if self.is_diagonal:
            return self, torch.ones(self.batch_shape, dtype=torch.float64)
        poles, T = torch.linalg.eig(self.A)
        condition = torch.linalg.cond(T)
        if not (condition < _DEFECTIVE).all():
            raise GramianError(
                f"'{self.name}' has no basis of eigenvectors (condition number {float(condition.max()):.1g}).",
                "A multiple pole of a dense system, such as a delay line, can have too few of them.",
                "Keep the system dense.",
            )
        return _in_modes(self, poles, T), condition

    def project(self, reducer: Reducer) -> LinearSystem:
        """The reduced-order model that a projection (or singular perturbation) makes of this system."""
        return reducer.apply(self)

    def equals(self, other: LinearSystem) -> bool:
        """Whether the other system is given by the same numbers, to the bit."""
        fields = [(self.A, other.A), (self.B, other.B), (self.C, other.C), (self.D, other.D)]
        if self.is_diagonal and other.is_diagonal:
            fields.append((self.log_poles, other.log_poles))
        return self.real_part == other.real_part and all(torch.equal(a, b) for a, b in fields)

    def __neg__(self) -> LinearSystem:
        return LinearSystem(self.A, self.B, -self.C, -self.D, self.log_poles, self.real_part, f"-({self.name})")

    def __add__(self, other: LinearSystem) -> LinearSystem:
        """The parallel connection, ``G = G1 + G2``: block-diagonal ``A``, stacked ``B``, ``C`` side by side."""
        if (self.n_outputs, self.n_inputs) != (other.n_outputs, other.n_inputs):
            raise ShapeError(
                f"'{self.name}' maps {self.n_inputs} inputs to {self.n_outputs} outputs, "
                f"'{other.name}' {other.n_inputs} to {other.n_outputs}.",
                "Only systems with the same inputs and outputs can be added or subtracted.",
            )
        first, second = _alike(self, other)
        name = f"{self.name} + {other.name}"
        B, C = torch.cat([first.B, second.B], -2), torch.cat([first.C, second.C], -1)
        D = first.D + second.D
        if not first.is_diagonal:
            n = first.order
            A = first.A.new_zeros(*first.batch_shape, n + second.order, n + second.order)
            A[..., :n, :n], A[..., n:, n:] = first.A, second.A
            return LinearSystem(A, B, C, D, name=name)
        A, logs = torch.cat([first.A, second.A], -1), torch.cat([first.log_poles, second.log_poles], -1)
        return LinearSystem(A, B, C, D, logs, first.real_part, name)

    def __sub__(self, other: LinearSystem) -> LinearSystem:
        return self + (-other)


def diagonal_if_accurate(system: LinearSystem) -> LinearSystem:
    """`system` in its modes if the way there costs at most four digits, and as it is otherwise."""
    if system.is_diagonal:
        return system
    poles, T = torch.linalg.eig(system.A)
    return _in_modes(system, poles, T) if (torch.linalg.cond(T) < _WELL_CONDITIONED).all() else system


def _in_modes(system: LinearSystem, poles: Tensor, T: Tensor) -> LinearSystem:
    B, C = torch.linalg.solve(T, system.B.to(T.dtype)), system.C.to(T.dtype) @ T
    return LinearSystem(poles, B, C, system.D.to(T.dtype), name=system.name)


def _alike(first: LinearSystem, second: LinearSystem) -> tuple[LinearSystem, LinearSystem]:
    """Both systems in one form, diagonal wherever that costs no accuracy, and in one dtype."""
    if first.real_part != second.real_part:
        first, second = first.augmented(), second.augmented()
    if first.is_diagonal != second.is_diagonal:
        one, two = diagonal_if_accurate(first), diagonal_if_accurate(second)
        first, second = (one, two) if one.is_diagonal and two.is_diagonal else (first.dense(), second.dense())
    dtype = torch.promote_types(first.A.dtype, second.A.dtype)
    return _cast(first, dtype), _cast(second, dtype)


def _cast(system: LinearSystem, dtype: torch.dtype) -> LinearSystem:
    if system.A.dtype == dtype:
        return system
    A, B, C, D = (t.to(dtype) for t in (system.A, system.B, system.C, system.D))
    return LinearSystem(A, B, C, D, system.log_poles, system.real_part, system.name)
