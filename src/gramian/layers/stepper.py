"""Inference with a diagonal state space layer: read a prompt, then go on step by step at a cost set by the states."""

from __future__ import annotations

import torch
from torch import Tensor

from gramian.errors import ShapeError
from gramian.kernels import diagonal_ssm_pairs
from gramian.kernels.response import pole_powers
from gramian.kernels.stepping import diagonal_step

__all__ = ["Stepper"]


class Stepper:
    """A layer's recurrence as it is now, with a state of its own.

    Made by ``layer.stepper(batch)``. The coefficients are computed once: a stepper does not follow later changes of the
    layer's parameters, and no gradient flows through it. On the CPU a step is one compiled pass over ``4 N H`` numbers.

    Parameters
    ----------
    decay, angle, B, C, D
        The recurrence as `gramian.kernels.diagonal_ssm_pairs` takes it.
    batch
        Sequences that are stepped together.

    Attributes
    ----------
    state
        Complex ``(batch, N)``; can be read and assigned.
    """

    def __init__(self, decay: Tensor, angle: Tensor, B: Tensor, C: Tensor, D: Tensor, batch: int) -> None:
        own = [t.detach().clone(memory_format=torch.contiguous_format) for t in (decay, angle, B, C, D)]
        self._recurrence = decay, angle, B, C, D = tuple(own)
        self._poles = pole_powers(decay, angle, torch.ones(1, device=decay.device))[0].contiguous()
        self._B, self._D = B, D
        self._C_conj = (C * torch.tensor([1.0, -1.0], dtype=C.dtype, device=C.device)).contiguous()
        self._state = B.new_zeros(batch, B.shape[1], 2)

    @property
    def state(self) -> Tensor:
        """The state after all that was read, complex ``(batch, N)``; a view."""
        return torch.view_as_complex(self._state)

    @state.setter
    def state(self, value: Tensor) -> None:
        if value.shape != self._state.shape[:2]:
            raise ShapeError(
                f"a state {tuple(value.shape)} was given; needed: (batch, N) = {tuple(self._state.shape[:2])}."
            )
        self._state = torch.view_as_real(value.detach().to(self.state.dtype).resolve_conj()).clone().contiguous()

    @torch.no_grad()
    def prefill(self, u: Tensor) -> Tensor:
        """Outputs ``(batch, L, H)`` for a piece of sequence ``(batch, L, H)``, read all at once."""
        self._check(u, 3)
        decay, angle, B, C, D = self._recurrence
        y, final = diagonal_ssm_pairs(u.to(B.dtype), decay, angle, B, C, D, self._state)
        assert final is not None
        self._state = final.contiguous()
        return y.to(u.dtype)

    @torch.no_grad()
    def step(self, u: Tensor) -> Tensor:
        """Output ``(batch, H)`` for one more input ``(batch, H)``."""
        self._check(u, 2)
        inputs = u.to(self._B.dtype)
        y = diagonal_step(inputs, self._poles, self._B, self._C_conj, self._state)
        return y.addcmul_(self._D, inputs).to(u.dtype)

    def _check(self, u: Tensor, dimensions: int) -> None:
        batch, channels = self._state.shape[0], self._B.shape[0]
        if u.ndim != dimensions or u.shape[0] != batch or u.shape[-1] != channels:
            raise ShapeError(
                f"u {tuple(u.shape)} was given to a stepper for {batch} sequences of {channels} channels.",
                "Needed: (batch, H) for step(), (batch, L, H) for prefill().",
            )
