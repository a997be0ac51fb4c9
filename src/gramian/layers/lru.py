"""The linear recurrent unit (LRU): a diagonal complex recurrence between two dense maps.

    x[k] = lambda * x[k-1] + gamma * (B u[k])        lambda = exp(-exp(nu_log) + i exp(theta_log))
    y[k] = Re(C x[k]) + D * u[k]                     gamma  = exp(gamma_log)

``|lambda| < 1`` whatever the parameters are. The layer is that of Orvieto et al., *Resurrecting Recurrent Neural
Networks for Long Sequences* (ICML 2023, arXiv 2303.06349); names and initialisation of the parameters are those of
the implementation NicolasZucchet/minimal-LRU, ``lru/model.py``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from gramian.errors import ConfigError, ShapeError, did_you_mean
from gramian.kernels import diagonal_ssm_pairs
from gramian.layers.lru_reduction import MIN_DECAY, decay_and_angle, lru_system, propose_lru
from gramian.layers.reducible import Spectrum, assign_
from gramian.layers.reduction import Reduction
from gramian.layers.stepper import Stepper
from gramian.systems.balancing import balancing
from gramian.systems.linear_system import LinearSystem
from gramian.systems.projections import Choice, balanced

__all__ = ["LRU"]


class LRU(nn.Module):
    """Linear recurrent unit with `d_state` complex states between `d_model` inputs and outputs.

    Parameters
    ----------
    d_model
        Channels H in and out.
    d_state
        Complex states N.
    r_min, r_max
        The ring in which ``|lambda|`` starts, uniform in area.
    max_phase
        Angles of ``lambda`` start uniform in ``[0, max_phase]`` (rad/sample).
    realization
        Which system is balanced when states are cut. ``"real"`` (the default) is the layer's own real
        input-output map, of order 2N. ``"complex"`` treats the output as if it were complex, as the published
        reference code of CompreSSM does: its values change when a mode is replaced by its conjugate, although the
        layer does not.
    backend
        Of the recurrence; see `gramian.kernels.diagonal_ssm`.

    Attributes
    ----------
    nu_log, theta_log, gamma_log
        ``(N,)``: logs of decay and angle of the poles, and of the input normalisation.
    B_re, B_im, C_re, C_im, D
        ``(N, H)``, ``(N, H)``, ``(H, N)``, ``(H, N)``, ``(H,)``.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int,
        *,
        r_min: float = 0.9,
        r_max: float = 0.999,
        max_phase: float = 2 * math.pi,
        realization: Literal["real", "complex"] = "real",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        _check_configuration(d_model, d_state, r_min, r_max, realization)
        self.d_model, self.realization, self.backend = d_model, realization, backend
        ring = torch.rand(d_state) * (r_max**2 - r_min**2) + r_min**2  # |lambda|^2
        decay = (-0.5 * torch.log(ring)).clamp(min=MIN_DECAY)
        self.nu_log = nn.Parameter(decay.log())
        self.theta_log = nn.Parameter((max_phase * torch.rand(d_state)).clamp(min=1e-8).log())
        self.gamma_log = nn.Parameter(0.5 * torch.log(-torch.expm1(-2 * decay)))
        self.B_re = nn.Parameter(torch.randn(d_state, d_model) / math.sqrt(2 * d_model))
        self.B_im = nn.Parameter(torch.randn(d_state, d_model) / math.sqrt(2 * d_model))
        self.C_re = nn.Parameter(torch.randn(d_model, d_state) / math.sqrt(d_state))
        self.C_im = nn.Parameter(torch.randn(d_model, d_state) / math.sqrt(d_state))
        self.D = nn.Parameter(torch.randn(d_model))

    @property
    def d_state(self) -> int:
        """Complex states the layer has now."""
        return self.nu_log.shape[0]

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}, realization={self.realization!r}"

    def initial_state(self, batch: int) -> Tensor:
        """The zero state, complex ``(batch, N)``."""
        dtype = torch.complex128 if self.nu_log.dtype == torch.float64 else torch.complex64
        return torch.zeros(batch, self.d_state, dtype=dtype, device=self.nu_log.device)

    def forward(self, u: Tensor) -> Tensor:
        """Outputs ``(batch, L, H)`` for inputs ``(batch, L, H)``, from a zero state; in the dtype of `u`."""
        with torch.autocast(u.device.type, enabled=False):
            return self._run(u, None, None, final_state=False)[0]

    def scan(self, u: Tensor, state: Tensor | None = None, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs and final state, from `state` on: a long sequence can be fed in pieces.

        Parameters
        ----------
        u
            ``(batch, L, H)``, any floating dtype; computed in float32 (float64 for a float64 layer), also under
            autocast.
        state
            Complex ``(batch, N)``; zero if not given.
        lengths
            Real steps of each padded sequence, int64 ``(batch,)``. The returned state is the one after those.
        """
        with torch.autocast(u.device.type, enabled=False):
            start = None if state is None else torch.view_as_real(state.resolve_conj())
            y, final = self._run(u, start, lengths, final_state=True)
            assert final is not None
            return y, torch.view_as_complex(final.contiguous())

    def _run(
        self, u: Tensor, state: Tensor | None, lengths: Tensor | None, final_state: bool
    ) -> tuple[Tensor, Tensor | None]:
        decay, angle, B, C, D = self._recurrence()
        y, final = diagonal_ssm_pairs(
            u.to(decay.dtype), decay, angle, B, C, D, state, lengths, backend=self.backend, final_state=final_state
        )
        return y.to(u.dtype), final

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: output ``(batch, H)`` and new state ``(batch, N)`` for an input ``(batch, H)``.

        Differentiable, and computes the coefficients anew; `stepper` is what inference wants.
        """
        with torch.autocast(u.device.type, enabled=False):
            decay, angle, B, C, D = self._recurrence()
            inputs = u.to(decay.dtype)
            B, C = (torch.view_as_complex(m.contiguous()) for m in (B, C))
            state = torch.polar(torch.exp(-decay), angle) * state + inputs.to(B.dtype) @ B
            y = (state @ C.mT).real + D * inputs
            return y.to(u.dtype), state

    @torch.no_grad()
    def stepper(self, batch: int = 1) -> Stepper:
        """For inference: ``stepper.prefill(u)`` and ``stepper.step(u)``, with the parameters as they are now."""
        return Stepper(*self._recurrence(), batch)

    def _recurrence(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Decay, angle, ``gamma B`` and C as pairs ``(H, N, 2)``, and D; in float32 (float64 for a float64 layer)."""
        dtype = torch.float64 if self.nu_log.dtype == torch.float64 else torch.float32
        decay, angle = decay_and_angle(self.nu_log.to(dtype), self.theta_log.to(dtype))
        gamma = self.gamma_log.to(dtype).exp()[:, None]
        B = torch.stack([self.B_re.mT, self.B_im.mT], -1).to(dtype) * gamma
        C = torch.stack([self.C_re, self.C_im], -1).to(dtype)
        return decay, angle, B, C, self.D.to(dtype)

    def linear_system(self) -> LinearSystem:
        """The layer's map in float64, computed from the logs of its parameters: exact next to the unit circle."""
        return lru_system(dict(self.named_parameters()), self.realization)

    def spectrum(self) -> Spectrum:
        """Hankel singular values of the layer: 2N of them for the real map, N for the complex one."""
        system = self.linear_system()
        return Spectrum.hankel(system, self.d_state, balancing(system))

    def propose(self, rank: int, choose: Choice = balanced, spectrum: Spectrum | None = None) -> Reduction:
        """The layer with at most `rank` complex states, chosen by `choose`; changes nothing.

        What `spectrum` returned can be given, if the parameters are still the same: it saves half of the time. The
        matrices that it holds are given up on the way if they are large (128 MB, beyond about 1000 states).
        """
        return propose_lru(dict(self.named_parameters()), self.realization, rank, choose, spectrum)

    def apply_(self, reduction: Reduction) -> None:
        """Become the proposed layer in place. Parameters keep identity and flags; gradients are dropped."""
        if not reduction.accepted or reduction.before != self.d_state:
            raise ShapeError(
                f"a reduction from {reduction.before} to {reduction.after} states was given to a layer with "
                f"{self.d_state} states{': ' + reduction.reason if reduction.reason else ''}.",
                "A reduction can be applied once, to the layer that proposed it, and only if it was not refused.",
                "Call propose() again and look at reduction.accepted.",
            )
        for name, tensor in reduction.tensors.items():
            assign_(self.get_parameter(name), tensor)


def _check_configuration(d_model: int, d_state: int, r_min: float, r_max: float, realization: str) -> None:
    if d_model < 1 or d_state < 1:
        raise ShapeError(f"d_model={d_model}, d_state={d_state} were given; needed: at least 1 of each.")
    if not 0 <= r_min < r_max <= 1:
        raise ConfigError(f"r_min={r_min}, r_max={r_max} were given; needed: 0 <= r_min < r_max <= 1.")
    if realization not in ("real", "complex"):
        hint = did_you_mean(realization, ("real", "complex"))
        raise ConfigError(f"realization='{realization}' was given; needed: 'real' or 'complex'.{hint}")
