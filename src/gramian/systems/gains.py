"""Gains of a system at many frequencies, by whichever way is cheap: the workshop behind `hinf_norm`.

Few channels: one matrix product makes the responses at all frequencies, their Frobenius norms say where a maximum can
be, and singular values are computed only there. Many channels: nothing of size ``H x H`` is formed; a few
steps of Golub-Kahan bidiagonalisation, for all frequencies at once and in single precision, say where to look, and more
of them, in double precision from where the first ones ended, how large the gain is. A rough answer is looked for in
single precision to the end, if both say the same of the highest points of the grid (they do not of a difference of
nearly equal systems), and double precision has the last word. What a system without modes needs is a linear solve for
each frequency.

Resolvents come from logarithms of the poles, so they are exact next to a pole on the circle. For a rough answer they
are quick instead, and still good to ten digits where a pole is ``1e-6`` away from it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gramian.systems.linear_system import LinearSystem
from gramian.systems.precise import one_minus_products

__all__ = ["Gains", "resolvent", "response_of_modes"]

_CHUNK_ENTRIES = 2**22  # complex numbers held at once
_DIRECT = 1024  # up to this many entries of a response it is formed
_FIRST, _MORE = 8, 64  # singular values computed at a time, the most promising frequencies first
_HOPEFUL, _FOLLOWED = 128, 48  # of many channels: the highest of a grid, by a few steps, and by all of them
_REFINED, _CONFIRMED = 8, 6  # of those, looked at in double precision: to go on from, or at the end
_NOTHING = 0.5  # of a vector, after a second orthogonalisation: then it was rounding
_SINGLE = 1e-5  # relative: single precision must not be off by more, nor outbid what is measured in double


def resolvent(logs: Tensor, omega: Tensor) -> Tensor:
    """``1 / (1 - exp(-i omega) exp(log))`` for logs (..., n) and frequencies (M,): complex128, ``(..., M, n)``."""
    return one_minus_products(logs[..., None, :], -1j * omega.to(torch.float64)[:, None]).reciprocal()


def quick_resolvent(logs: Tensor, omega: Tensor) -> Tensor:
    """The same without an exponential for every entry: off by ``1e-16 / (1 - |exp(log)|)``, relative to itself."""
    delay = torch.exp(-1j * omega.to(torch.float64))
    return (1 - logs.exp()[..., None, :] * delay[:, None]).reciprocal()


def response_of_modes(system: LinearSystem, omega: Tensor) -> Tensor:
    """``C diag(w) B + D`` of a diagonal system that is not a real part, shape ``(..., M, H_out, H_in)``."""
    B, C, D = (t.to(torch.complex128) for t in (system.B, system.C, system.D))
    weights = resolvent(system.log_poles, omega)
    return (C[..., None, :, :] * weights[..., None, :]) @ B[..., None, :, :] + D[..., None, :, :]


@dataclass(frozen=True, eq=False)
class _Operator:
    """``G(omega)`` of one diagonal system as a product of thin matrices, in `dtype` (complex).

    A real-part system is taken in the coordinates ``(Re x, Im x)``, where B and C are real and the resolvent has the
    blocks ``[[p, -s], [s, p]]``: half the work of modes and their conjugates.
    """

    system: LinearSystem
    dtype: torch.dtype
    resolvent: Callable[[Tensor, Tensor], Tensor] = resolvent

    def weights(self, omega: Tensor) -> tuple[Tensor, ...]:
        """``(w,)``, or ``(p, s)`` of a real-part system; each ``(n, M, 1)``."""
        logs = self.system.log_poles
        w = self.resolvent(logs, omega)
        if not self.system.real_part:
            return (w.mT[..., None].to(self.dtype),)
        mirrored = self.resolvent(logs.conj(), omega)
        p, s = (w + mirrored) / 2, (w - mirrored) / 2j
        return p.mT[..., None].to(self.dtype), s.mT[..., None].to(self.dtype)

    @cached_property
    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """B, C and D, real where the system is a real part."""
        B, C = self.system.input_output_matrices()
        D, real_part = self.system.D, self.system.real_part
        kind = self.dtype.to_real() if real_part else self.dtype
        return B.to(kind), C.to(kind), (D.real if real_part else D).to(kind)


def _times(matrix: Tensor, X: Tensor) -> Tensor:
    """`matrix` times blocks of vectors (H, M, k), as one matrix product, real where the matrix is."""
    if matrix.is_complex():
        return (matrix @ X.flatten(1)).unflatten(1, X.shape[1:])
    return torch.view_as_complex((matrix @ torch.view_as_real(X).flatten(1)).unflatten(1, (*X.shape[1:], 2)))


def _weigh(weights: tuple[Tensor, ...], X: Tensor, adjoint: bool) -> Tensor:
    if len(weights) == 1:
        return X * (weights[0].conj() if adjoint else weights[0])
    p, s = (weights[0].conj(), weights[1].conj()) if adjoint else weights
    (upper, lower), sign = X.chunk(2), -1 if adjoint else 1
    out = X.new_empty(len(X), *torch.broadcast_shapes(p.shape[1:], X.shape[1:]))
    above, below = out.chunk(2)
    torch.mul(p, upper, out=above).addcmul_(s, lower, value=-sign)
    torch.mul(p, lower, out=below).addcmul_(s, upper, value=sign)
    return out


class Gains:
    """``||G(exp(i omega))||_2`` of one system at many frequencies.

    Parameters
    ----------
    system
        One system.
    steps
        How many steps a bidiagonalisation makes where a gain is not found by an SVD; the error is below it, about
        ``(ln H / steps)^2`` at worst.
    is_rough
        Whether gains may be measured in single precision on the way to the largest, and resolvents be quick.
    """

    def __init__(self, system: LinearSystem, steps: int, is_rough: bool = False) -> None:
        self.system, self.steps = system, min(steps, system.n_inputs, system.n_outputs)
        self.is_direct = not system.is_diagonal or system.n_inputs * system.n_outputs <= _DIRECT
        self._resolvent = quick_resolvent if is_rough else resolvent
        self.is_single, self._single = is_rough, _Operator(system, torch.complex64, self._resolvent)

    def survey(self, omega: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gains on a grid; below the true ones, or 0, where there can be no maximum. And where vectors ended."""
        if self.is_direct:
            return self._direct(omega, screened=True), None
        start = torch.randn(self.system.n_inputs, 1, generator=torch.Generator().manual_seed(0)).to(torch.complex64)
        look = self._in_single
        gains, vectors = look(omega, start, 2)
        if not self._agree(omega, gains, vectors):
            self.is_single, look = False, self._in_double
            gains, vectors = look(omega, start, 2)
        stages = [(_HOPEFUL, 2, look), (_FOLLOWED, self.steps, look)]
        for count, steps, look in stages if self.is_single else [*stages, (_REFINED, self.steps, self._in_double)]:
            best = gains.topk(min(count, len(omega))).indices
            gains[best], vectors[:, best] = look(omega[best], vectors[:, best], steps)
        return gains, vectors

    def measure(self, omega: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gains at a few frequencies, from vectors nearby; and where the vectors ended."""
        if self.is_direct or start is None:
            return self._direct(omega, screened=False), torch.zeros(0, len(omega))
        if self.is_single:
            return self._in_single(omega, start, self.steps)
        return self._in_double(omega, start, self.steps)

    def largest(self, omega: Tensor, gains: Tensor, vectors: Tensor | None) -> tuple[float, float]:
        """The largest of gains that were measured at `omega`, in double precision, and its frequency."""
        if vectors is not None and self.is_single:
            best = gains.topk(min(_CONFIRMED, len(omega))).indices
            omega, (gains, _) = omega[best], self._in_double(omega[best], vectors[:, best], self.steps)
        peak = int(gains.argmax())
        return float(gains[peak]), float(omega[peak])

    def _agree(self, omega: Tensor, gains: Tensor, vectors: Tensor) -> bool:
        """Whether double precision says of the largest `gains` what single precision said, of the same vectors."""
        few = gains.topk(min(_CONFIRMED, len(omega))).indices
        exact, _ = self._in_double(omega[few], vectors[:, few], 1)
        return bool(((gains[few] - exact).abs() <= 2 * _SINGLE * exact).all())

    def _in_single(self, omega: Tensor, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        gains, vectors = self._krylov(self._single, omega, start, steps)
        return gains * (1 - _SINGLE), vectors

    def _in_double(self, omega: Tensor, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        gains, vectors = self._krylov(_Operator(self.system, torch.complex128), omega, start, steps)
        return gains, vectors.to(torch.complex64)

    def _direct(self, omega: Tensor, screened: bool) -> Tensor:
        per_frequency = self.system.n_inputs * self.system.n_outputs + self.system.order * (
            2 if self.system.is_diagonal else self.system.order
        )
        parts = omega.split(max(1, _CHUNK_ENTRIES // per_frequency))
        largest, gains = 0.0, []
        for part in parts:
            G = self._responses(part)
            gains.append(_where_largest(G, largest) if screened else torch.linalg.svdvals(G)[..., 0])
            largest = max(largest, float(gains[-1].max()))
        return torch.cat(gains)

    def _responses(self, omega: Tensor) -> Tensor:
        system = self.system
        if not system.is_diagonal:
            eye = torch.eye(system.order, dtype=torch.complex128)
            pencil = eye - torch.exp(-1j * omega)[:, None, None] * system.A
            states = torch.linalg.solve(pencil, system.B.to(pencil.dtype).expand(len(omega), -1, -1))
            return system.C.to(states.dtype) @ states + system.D
        if not system.real_part:
            return response_of_modes(system, omega)
        # Sum of c_i b_i w_i and of its mirror image: Re(c_i b_i) p_i - Im(c_i b_i) s_i, one product of real matrices.
        C, B = system.C.to(torch.complex128), system.B.to(torch.complex128)
        residues = (C.mT[:, :, None] * B[:, None, :]).flatten(1)
        w, mirrored = (self._resolvent(logs, omega) for logs in (system.log_poles, system.log_poles.conj()))
        p, s = (w + mirrored) / 2, (mirrored - w) / 2j
        parts = torch.stack([torch.cat([p.real, s.real], 1), torch.cat([p.imag, s.imag], 1)])
        G = parts @ torch.cat([residues.real, residues.imag])
        return torch.complex(G[0], G[1]).unflatten(1, (system.n_outputs, system.n_inputs)) + system.D.real

    def _krylov(self, operator: _Operator, omega: Tensor, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        per_frequency = 2 * self.system.order + (steps + 1) * (self.system.n_inputs + self.system.n_outputs)
        size = max(1, _CHUNK_ENTRIES // per_frequency)
        matrices, parts = operator.matrices, omega.split(size)
        starts = start.split(size, 1) if start.shape[1] > 1 else (start,) * len(parts)
        found = [
            _bidiagonalise(matrices, operator.weights(part), first.to(operator.dtype), steps)
            for part, first in zip(parts, starts, strict=True)
        ]
        return torch.cat([gain for gain, _ in found]).double(), torch.cat([vector for _, vector in found], 1)


def _where_largest(G: Tensor, largest: float) -> Tensor:
    """The largest singular values of responses; 0 where the Frobenius norm is below `largest` or another of them."""
    ceilings = torch.linalg.matrix_norm(G)
    gains = torch.zeros_like(ceilings)
    order = ceilings.argsort(descending=True)
    for part in (order[:_FIRST], *order[_FIRST:].split(_MORE)):
        part = part[ceilings[part] > max(largest, float(gains.max()))]
        if not len(part):
            break
        gains[part] = torch.linalg.svdvals(G[part])[..., 0]
    return gains


def _bidiagonalise(
    matrices: tuple[Tensor, Tensor, Tensor], weights: tuple[Tensor, ...], x: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """Golub-Kahan steps from `x`: the gains ``||G v||``, and the unit vectors ``v`` that have them, ``(H_in, M)``.

    `x` is ``(H_in, M)``, or ``(H_in, 1)`` for all frequencies: then it passes through B once.
    """
    B, C, D = matrices

    def push(v: Tensor) -> Tensor:
        v = v[..., None]
        return (_times(C, _weigh(weights, _times(B, v), False)) + _times(D, v))[..., 0]

    def pull(u: Tensor) -> Tensor:
        u = u[..., None]
        return (_times(B.mH, _weigh(weights, _times(C.mH, u), True)) + _times(D.mH, u))[..., 0]

    v = _unit(x)[0]
    images = [push(v)]
    right = [v.expand(-1, images[0].shape[1])]
    for _ in range(1, steps):
        v = pull(_unit(images[-1])[0])
        right.append(_orthogonal(v, right))
        images.append(push(right[-1]))
    # The best combination of the vectors: G times it has the length of their images' largest singular value.
    Y, V = torch.stack(images, -1).transpose(0, 1), torch.stack(right, -1).transpose(0, 1)  # (M, H, steps)
    best = torch.linalg.eigh(Y.mH @ Y)[1][..., -1:]
    image, v = (Y @ best)[..., 0], (V @ best)[..., 0].mT
    length = torch.linalg.vector_norm(v, dim=0)
    return torch.linalg.vector_norm(image, dim=-1) / length.clamp(min=1), v / length.clamp(min=1e-30)


def _orthogonal(v: Tensor, right: list[Tensor]) -> Tensor:
    """The unit vectors along what of `v` is orthogonal to all of `right`; zero where that is only rounding.

    Twice: lost orthogonality would be lost accuracy. What the second time takes half of was nothing.
    """
    lengths = []
    for _ in range(2):
        v = v - sum(w * (w.conj() * v).sum(0) for w in right)
        lengths.append(torch.linalg.vector_norm(v, dim=0))
    return torch.where(lengths[1] > _NOTHING * lengths[0], v / lengths[1].clamp(min=1e-30), 0.0)


def _unit(x: Tensor) -> tuple[Tensor, Tensor]:
    length = torch.linalg.vector_norm(x, dim=0)
    return x / length.clamp(min=1e-30), length
