"""One entrance to every version of the recurrence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from gramian.errors import ConfigError, ShapeError, did_you_mean
from gramian.kernels.choice import fastest
from gramian.kernels.chunked import diagonal_ssm_by_chunks, diagonal_ssm_by_products
from gramian.kernels.convolution import causal_convolution
from gramian.kernels.direct import diagonal_ssm_direct
from gramian.kernels.reference import diagonal_ssm_by_steps
from gramian.kernels.response import impulse_response, pole_powers
from gramian.kernels.scan import scan_by_doubling, scan_pairs

__all__ = ["BACKENDS", "diagonal_ssm", "diagonal_ssm_pairs"]

BACKENDS = ("numba", "fft", "products", "chunked", "torch", "reference")


def diagonal_ssm(
    u: Tensor,
    decay: Tensor,
    angle: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    backend: str = "auto",
    final_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """``x[k] = l x[k-1] + B u[k]``, ``y[k] = Re(C x[k]) + D * u[k]`` with ``l = exp(-decay + i angle)``.

    Parameters
    ----------
    u
        Inputs, ``(batch, L, H_in)``, float32 or float64. ``L`` may be 0.
    decay, angle
        ``(N,)``: ``-log|l|`` (positive) and the angle of the poles.
    B, C
        Complex, ``(N, H_in)`` and ``(H_out, N)``.
    D
        ``(H,)``, where ``H_in = H_out``; no feed-through if not given.
    state
        State before the first step, complex ``(batch, N)``; zero if not given.
    lengths
        How many steps of each sequence are real, int64 ``(batch,)``; all if not given. Outputs beyond are those of
        the padding and mean nothing.
    backend
        ``"numba"`` (compiled loops with the states in registers; few states and channels, CPU), ``"fft"`` (a long
        convolution; from a zero state, and without the final one), ``"products"`` (product, scan, product; many
        channels), ``"chunked"`` (products over chunks), ``"torch"`` (the same in plain torch: any device,
        `torch.func`), ``"reference"`` (the loop that specifies it); ``"auto"`` takes the fastest by
        `gramian.kernels.choice`.
    final_state
        Whether the final state is wanted.

    Returns
    -------
    y, state
        ``(batch, L, H_out)``, real, and the state after the last real step, complex ``(batch, N)``, or None.

    Raises
    ------
    ConfigError, ShapeError
        For an unknown backend or one that cannot do what is asked, and for shapes that do not fit.
    """
    if u.ndim != 3 or u.shape[-1] != B.shape[-1] or B.shape[0] != C.shape[-1]:
        raise ShapeError(
            f"u {tuple(u.shape)}, B {tuple(B.shape)}, C {tuple(C.shape)} were given.",
            "Needed: u (batch, L, H_in), B (N, H_in), C (H_out, N).",
        )
    start = None if state is None else _pairs(state)
    y, final = diagonal_ssm_pairs(
        u, decay, angle, _pairs(B.mT), _pairs(C), D, start, lengths, backend=backend, final_state=final_state
    )
    return y, None if final is None else torch.view_as_complex(final.contiguous())


def diagonal_ssm_pairs(
    u: Tensor,
    decay: Tensor,
    angle: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    state: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    backend: str = "auto",
    final_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """`diagonal_ssm` for complex numbers as pairs of reals, states innermost: what layers call.

    B ``(H_in, N, 2)``, C ``(H_out, N, 2)``, state ``(batch, N, 2)``; the rest as there.
    """
    stateful = state is not None or final_state
    if not final_state:
        lengths = None  # they say where the final state is, and nothing else
    _check(u, B, C, D, backend, stateful, lengths is not None)
    batch, length, _ = u.shape
    order = B.shape[1]
    if backend == "auto":
        backend = fastest(u, order, C.shape[0], stateful=stateful, padded=lengths is not None)
    if backend == "numba" and length > 0:
        y, final = diagonal_ssm_direct(u, _poles(decay, angle), B, C, D, state, final_state)
        return y, final if final_state else None
    start = u.new_zeros(batch, order, 2) if state is None else state
    if length == 0:
        return u.new_zeros(batch, 0, C.shape[0]), start if final_state else None
    if backend == "fft":
        K = impulse_response(decay, angle, B, C, length)
        return causal_convolution(u, K if D is None else _with_feed_through(K, D)), None
    run = _by_steps if backend == "reference" else _from_a_state
    y, final = run(backend, u, decay, angle, B, C, D, start, lengths)
    return y, final if final_state else None


def _by_steps(
    backend: str,
    u: Tensor,
    decay: Tensor,
    angle: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    lengths = torch.full(u.shape[:1], u.shape[1], device=u.device) if lengths is None else lengths
    complexes = torch.view_as_complex(B.contiguous()).mT, torch.view_as_complex(C.contiguous())
    y, final = diagonal_ssm_by_steps(u, decay, angle, *complexes, D, torch.view_as_complex(state.contiguous()), lengths)
    return y, torch.view_as_real(final)


def _from_a_state(
    backend: str,
    u: Tensor,
    decay: Tensor,
    angle: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    state: Tensor,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The versions that carry a state, as pairs."""
    if backend == "products":
        y, final = diagonal_ssm_by_products(u, _poles(decay, angle), B, C, state, scan_pairs)
    else:
        scan: Callable[[Tensor, Tensor, Tensor], Tensor] = scan_by_doubling if backend == "torch" else scan_pairs
        y, final = diagonal_ssm_by_chunks(u, decay, angle, B, C, state, lengths, scan)
    return y if D is None else torch.addcmul(y, D, u), final


def _poles(decay: Tensor, angle: Tensor) -> Tensor:
    return pole_powers(decay, angle, torch.ones(1, device=decay.device))[0]


def _check(u: Tensor, B: Tensor, C: Tensor, D: Tensor | None, backend: str, stateful: bool, padded: bool) -> None:
    if backend != "auto" and backend not in BACKENDS:
        raise ConfigError(
            f"backend '{backend}' was asked for; needed: auto, {', '.join(BACKENDS)}.{did_you_mean(backend, BACKENDS)}"
        )
    if backend == "fft" and stateful:
        raise ConfigError(
            "backend 'fft' was asked for, with a state; it convolves from a zero state, and gives no final one.",
            cure="backend='auto'",
        )
    if backend in ("numba", "products") and padded:
        raise ConfigError(f"backend '{backend}' was asked for, with lengths; it has none.", cure="backend='auto'")
    if D is not None and not D.shape == u.shape[2:] == C.shape[:1]:
        raise ShapeError(
            f"D {tuple(D.shape)} was given, with {u.shape[2]} inputs and {C.shape[0]} outputs.",
            "Needed: D (H,), one number a channel, with as many inputs as outputs.",
        )


def _pairs(z: Tensor) -> Tensor:
    return torch.view_as_real(z.resolve_conj())


def _with_feed_through(K: Tensor, D: Tensor) -> Tensor:
    """K with D at lag zero; a sum, so that the gradient for K is that of the result, as it is."""
    return K + pad(torch.diag(D)[..., None], (0, K.shape[-1] - 1))
