"""Example systems that tests share, and slow, obvious ways to what the library computes quickly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import mpmath as mp
import torch
from hypothesis import strategies as st
from torch import Tensor

from gramian.systems.linear_system import LinearSystem

EPS = torch.finfo(torch.float64).eps
KINDS = ("complex", "real_part", "real")


def from_logs(logs: Tensor, B: Tensor, C: Tensor, kind: str = "real_part", D: Tensor | None = None) -> LinearSystem:
    """The diagonal system with poles ``exp(logs)``; of `kind` "real" only the real parts of everything are used."""
    if kind == "real":
        return LinearSystem(torch.exp(logs).real, B.real, C.real, D, logs)
    return LinearSystem(torch.exp(logs), B, C, D, logs, real_part=kind == "real_part")


def random_system(
    n: int,
    n_inputs: int = 2,
    n_outputs: int = 2,
    *,
    seed: int = 0,
    kind: str = "real_part",
    radius: tuple[float, float] = (0.4, 0.97),
    angle: tuple[float, float] = (0.0, math.pi),
    D: bool = False,
) -> LinearSystem:
    """`n` modes in a sector of a ring, with standard normal ``B`` and ``C``."""
    g = torch.Generator().manual_seed(seed)
    r, a = (lo + (hi - lo) * torch.rand(n, dtype=torch.float64, generator=g) for lo, hi in (radius, angle))
    logs = torch.complex(r.log(), torch.zeros_like(a) if kind == "real" else a)
    B, C = normal(n, n_inputs, generator=g), normal(n_outputs, n, generator=g)
    direct = normal(n_outputs, n_inputs, generator=g).real if D else None
    return from_logs(logs, B, C, kind, direct)


def normal(*shape: int, seed: int = 0, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal numbers, complex128."""
    generator = torch.Generator().manual_seed(seed) if generator is None else generator
    return torch.randn(*shape, dtype=torch.complex128, generator=generator)


def lag(pole: float, gain: float = 1.0) -> LinearSystem:
    """A first-order lag, ``G(z) = gain / (1 - pole / z)``."""
    return LinearSystem(*(torch.tensor(x, dtype=torch.float64) for x in ([pole], [[1.0]], [[gain]])))


def delay_line(n: int) -> LinearSystem:
    """``y[k] = u[k - n + 1]``: a single Jordan block at zero, whose Hankel singular values are all 1."""
    eye = torch.eye(n, dtype=torch.float64)
    return LinearSystem(torch.diag_embed(torch.ones(n - 1, dtype=torch.float64), 1), eye[:, -1:], eye[:1])


def changed_basis(system: LinearSystem, seed: int = 0) -> LinearSystem:
    """The same system, dense, in random coordinates (of condition number 10)."""
    dense = system.dense()
    g = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(dense.A.shape, dtype=dense.A.dtype, generator=g))[0] for _ in range(2))
    scale = torch.logspace(-0.5, 0.5, dense.order, dtype=torch.float64)
    T, T_inverse = left * scale @ right, right.mH / scale @ left.mH
    return LinearSystem(T @ dense.A @ T_inverse, T @ dense.B, dense.C @ T_inverse, dense.D)


def batch_of(systems: Sequence[LinearSystem]) -> LinearSystem:
    """Systems of one shape as one batched system."""
    stacked = (torch.stack([getattr(s, field) for s in systems]) for field in ("A", "B", "C", "D"))
    logs = torch.stack([s.log_poles for s in systems]) if systems[0].is_diagonal else None
    return LinearSystem(*stacked, logs, systems[0].real_part)


def margin(system: LinearSystem) -> float:
    """The smallest ``1 - |lambda|^2`` of a diagonal system."""
    return float(-torch.expm1(2 * system.log_poles.real).max())


def term_size(system: LinearSystem) -> float:
    """``sum_i ||b_i|| ||c_i|| / (1 - |l_i|^2)`` of a diagonal system: the terms its gains and HSVs are made of.

    Usually a small multiple of the largest HSV; where terms cancel, rounding errors are relative to this instead.
    """
    b, c = system.B.abs().square().sum(-1).sqrt(), system.C.abs().square().sum(-2).sqrt()
    return float((b * c / -torch.expm1(2 * system.log_poles.real)).sum())


def error_system_rounding(system: LinearSystem) -> float:
    """How far rounding can move the H-infinity norm of ``system - reduced``.

    The reduced model is a dense matrix: its poles are known to a few ulp and its gains, next to the unit circle, to
    ``eps / (1 - |lambda|)``. In 3000 adversarial systems the excess was at most ``4e-14 / margin`` of the terms; the
    other part, ``1e-10``, allows for eigenvectors of condition number up to 1e4 when the difference is diagonalised.
    """
    return (1e-10 + 2e-13 / margin(system)) * term_size(system)


def first_values(system: LinearSystem, length: int) -> Tensor:
    """Singular values of the Hankel matrix of the first ``2 length - 1`` impulse responses, by the definition."""
    dense, h, states = system.dense(), [], system.dense().B
    for _ in range(2 * length - 1):
        h.append(dense.C @ states)
        states = dense.A @ states
    return torch.linalg.svdvals(torch.cat([torch.cat(h[i : i + length], -1) for i in range(length)], -2))


def exact_values(system: LinearSystem, digits: int = 50) -> list[mp.mpf]:
    """Hankel singular values of a diagonal system, in arithmetic of `digits` digits, from its ``log_poles``."""
    with mp.workdps(digits):
        logs = [mp.mpc(x) for x in system.log_poles.tolist()]
        B, C = matrix(system.B), matrix(system.C)
        if system.real_part:  # each mode beside its conjugate; y = Re(C x) = (C x + conj(C x)) / 2
            logs += [mp.conj(x) for x in logs]
            B = mp.matrix(B.tolist() + B.conjugate().tolist()) / mp.sqrt(2)
            C = mp.matrix([a + b for a, b in zip(C.tolist(), C.conjugate().tolist(), strict=True)]) / mp.sqrt(2)
        poles = [mp.exp(x) for x in logs]
        P, Q = B * B.H, C.H * C
        for i, one in enumerate(poles):
            for j, two in enumerate(poles):
                P[i, j] /= 1 - one * mp.conj(two)
                Q[i, j] /= 1 - mp.conj(one) * two
        L = mp.cholesky(P)
        return sorted((mp.sqrt(x) for x in mp.eighe(L.H * Q * L, eigvals_only=True)), reverse=True)


def matrix(tensor: Tensor) -> mp.matrix:
    """A tensor as a matrix of mpmath, exactly."""
    return mp.matrix([[mp.mpc(x) for x in row] for row in tensor.tolist()])


FLAWS = ("duplicate", "cancelling", "uncontrollable", "unobservable")


@st.composite
def systems(
    draw: st.DrawFn,
    *,
    kinds: Sequence[str] = KINDS,
    most_modes: int = 6,
    most_channels: int = 3,
    slowest: float = 1e-7,
    flaws: Sequence[str] = FLAWS,
) -> LinearSystem:
    """Stable diagonal systems: spread out, clustered or within `slowest` of the unit circle, some with `flaws`."""
    kind = draw(st.sampled_from(list(kinds)))
    n, n_in, n_out = (draw(st.integers(1, most)) for most in (most_modes, most_channels, most_channels))
    where = draw(st.sampled_from(["spread", "clustered", "slow"]))
    angles = st.sampled_from([0.0, math.pi]) if kind == "real" else st.floats(-math.pi, math.pi)
    decay, angle = {
        "spread": (st.floats(max(0.01, slowest), 3.0), angles),
        "clustered": (_around(max(0.1, slowest)), st.just(0.0) if kind == "real" else _around(1.0)),
        "slow": (_powers(math.log10(slowest), -1.0), angles),
    }[where]
    logs = torch.tensor([complex(-draw(decay), draw(angle)) for _ in range(n)], dtype=torch.complex128)
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    B, C = normal(n, n_in, generator=g), normal(n_out, n, generator=g)
    for flaw in draw(st.lists(st.sampled_from(list(flaws)), max_size=2)) if flaws else []:
        one, two = draw(st.integers(0, n - 1)), draw(st.integers(0, n - 1))
        if flaw == "uncontrollable":
            B[one] = 0
        elif flaw == "unobservable":
            C[:, one] = 0
        else:
            logs[one] = logs[two]
        if flaw == "cancelling" and one != two:
            B[one], C[:, one] = B[two], -C[:, two]
    return from_logs(logs, B, C, kind)


def _powers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda x: 10.0**x)


def _around(center: float) -> st.SearchStrategy[float]:
    return _powers(-6.0, -2.0).map(lambda x: center + x)


EXAMPLES: dict[str, Callable[[], LinearSystem]] = {
    "complex": lambda: random_system(5, 2, 3, kind="complex", angle=(-3, 3)),
    "real poles": lambda: random_system(4, 2, 3, kind="real", D=True),
    "real_part": lambda: random_system(5, 2, 3, D=True),
    "SISO": lambda: random_system(5, 1, 1),
    "dense": lambda: changed_basis(random_system(4, 2, 3, D=True)),
    "dense complex": lambda: changed_basis(random_system(4, 3, 2, kind="complex")),
    "delay line": lambda: delay_line(4),
}
"""One of every form a system can have, by name."""
