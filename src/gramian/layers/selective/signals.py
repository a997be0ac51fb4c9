"""What drives a selective recurrence at every step, and what its states contribute to the layer's output.

In every group g of channels that share B and C, with P channels and N states each:

    h_t[p, n] = exp(dt_t[p] A[p, n] + log_gate_t[n]) h_{t-1}[p, n] + gain_t[p] u_t[p] B_t[n]
    output_t = sum_g M_t C_t + (what does not pass through the states)        M_t = readout diag(gate_t) h_t

Column n of ``M_t``, ``(d_out, N)``, is what state n would add to the layer's output for ``C_t[n] = 1``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gramian.kernels import selective_scan, selective_states

__all__ = ["Contributions", "Signals", "contributions", "state_output"]

_CHUNK_BYTES = 2**24  # of the states of consecutive steps that are kept at a time


@dataclass(frozen=True)
class Signals:
    """The inputs of a selective recurrence; see the equations of this module.

    Parameters
    ----------
    u, dt, gate
        ``(batch, L, groups, P)``: inputs of the channels, step sizes, and the factor of each channel on its way out.
    A
        ``(groups, P, N)``, negative.
    B, C
        ``(batch, L, groups, N)``.
    readout
        ``(d_out, groups, P)``.
    gain
        ``(batch, L, groups, P)``: the factor of each channel on its way in; `dt` where it is None.
    log_gate
        ``(batch, L, groups, N)``: what states forget on top of ``dt A``; nothing where it is None.
    """

    u: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    gate: Tensor
    readout: Tensor
    gain: Tensor | None = None
    log_gate: Tensor | None = None

    @classmethod
    def of_one_group(
        cls, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, gate: Tensor, readout: Tensor
    ) -> Signals:
        """All channels share B and C: shapes without the dimension of the groups."""
        return cls(
            u[:, :, None], dt[:, :, None], A[None], B[:, :, None], C[:, :, None], gate[:, :, None], readout[:, None]
        )

    @property
    def d_state(self) -> int:
        """States of each channel."""
        return self.A.shape[-1]

    @property
    def groups(self) -> int:
        """Groups of channels."""
        return self.A.shape[0]

    def float(self) -> Signals:
        """In float32, or float64 where it is float64 already."""
        dtype = torch.float64 if self.u.dtype == torch.float64 else torch.float32
        values = (getattr(self, key) for key in self.__dataclass_fields__)
        return Signals(*(None if value is None else value.to(dtype) for value in values))  # type: ignore[arg-type]

    def sketched(self, directions: int, generator: torch.Generator) -> Signals:
        """The same with the output seen in random directions, where it has more than `directions`."""
        if self.readout.shape[0] <= directions:
            return self
        random = torch.randn(directions, self.readout.shape[0], generator=generator) / directions**0.5
        return replace(self, readout=torch.einsum("kd,dgp->kgp", random.to(self.readout), self.readout))

    def with_states(self, A: Tensor, B: Tensor, C: Tensor) -> Signals:
        """The same channels with other states: as many, where these have gates of their own."""
        assert self.log_gate is None or A.shape[-1] == self.A.shape[-1]
        return replace(self, A=A, B=B, C=C)

    def decay(self, t: int) -> Tensor:
        """What is left of the states of the step before, ``(batch, groups, P, N)``."""
        exponent = self.dt[:, t, :, :, None] * self.A
        return torch.exp(exponent if self.log_gate is None else exponent + self.log_gate[:, t, :, None, :])


@dataclass(frozen=True)
class Contributions:
    """Some steps of a batch: `M` is ``(samples, groups, d_out, N)``, `C` ``(samples, groups, N)`` and `h` ``(samples,
    groups, P, N)``, with ``samples = batch * len(steps)`` ordered by sequence; `steps` are indices into time."""

    M: Tensor
    C: Tensor
    h: Tensor
    steps: Tensor


def contributions(signals: Signals, steps: Tensor) -> Iterator[Contributions]:
    """What the states contribute at `steps` (ascending), in pieces of bounded size."""
    s = signals.float()
    written = (s.dt if s.gain is None else s.gain) * s.u
    most = max(1, _CHUNK_BYTES // max(1, len(s.u) * s.A.numel() * s.A.element_size()))
    state, start = None, 0
    for piece in steps.split(most):
        now = slice(start, int(piece[-1]) + 1)
        gate = None if s.log_gate is None else s.log_gate[:, now]
        h, state = selective_states(written[:, now], s.dt[:, now], s.A, s.B[:, now], piece - start, gate, state)
        yield _contributed(s, h.flatten(0, 1), piece)
        start = now.stop


def _contributed(s: Signals, h: Tensor, steps: Tensor) -> Contributions:
    at = steps.to(h.device)
    C, gate = s.C[:, at].flatten(0, 1), s.gate[:, at].flatten(0, 1)
    readout = s.readout.movedim(1, 0)  # (groups, d_out, P)
    return Contributions((gate[:, :, None, :] * readout) @ h, C, h, steps)


def state_output(signals: Signals, steps: Tensor) -> Tensor:
    """What passes through the states of each group at `steps`, ``(batch * len(steps), groups, d_out)``."""
    s = signals.float()
    if s.gain is None and s.log_gate is None:
        y, _ = selective_scan(s.u.flatten(2), s.dt.flatten(2), s.A.flatten(0, 1), s.B, s.C, softplus=False)
        gated = s.gate[:, steps] * y[:, steps].unflatten(-1, (s.groups, -1))
        return torch.einsum("bsgp,dgp->bsgd", gated, s.readout).flatten(0, 1)
    pieces = [torch.einsum("sgdn,sgn->sgd", p.M, p.C) for p in contributions(s, steps)]
    return torch.cat([p.unflatten(0, (len(s.u), -1)) for p in pieces], 1).flatten(0, 1)
