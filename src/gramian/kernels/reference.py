"""The specification of the diagonal state space recurrence: one obvious loop over time."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["diagonal_ssm_by_steps"]


def diagonal_ssm_by_steps(
    u: Tensor, decay: Tensor, angle: Tensor, B: Tensor, C: Tensor, D: Tensor | None, state: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """``x[k] = l x[k-1] + B u[k]``, ``y[k] = Re(C x[k]) + D * u[k]`` with ``l = exp(-decay + i angle)``, step by step.

    Shapes and meaning as in `gramian.kernels.diagonal_ssm`; every faster version must agree with this one.
    """
    poles = torch.exp(torch.complex(-decay, angle))
    inputs = torch.complex(u, torch.zeros_like(u))
    x, outputs, final = state, [], state
    for k in range(u.shape[1]):
        x = poles * x + inputs[:, k] @ B.mT
        y = (x @ C.mT).real
        outputs.append(y if D is None else y + D * u[:, k])
        final = torch.where((lengths == k + 1)[:, None], x, final)
    return torch.stack(outputs, 1), final
