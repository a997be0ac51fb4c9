"""The specification of the recurrence with a matrix for a state: one obvious loop over time."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ssd_by_steps"]


def ssd_by_steps(x: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """``S[t] = exp(log_decay[t]) S[t-1] + x[t] B[t]^T``, ``y[t] = S[t] C[t]``, for every head, step by step.

    Shapes and meaning as in `gramian.kernels.ssd`, and the decay may also be one for every column of S, ``(batch, L,
    heads, N)``, as in `gramian.kernels.gated_attention`; every faster version must agree with this one.
    """
    heads, decay = x.shape[2], log_decay.exp()
    B, C = (m.repeat_interleave(heads // m.shape[2], 2) for m in (B, C))
    decay = decay[..., None] if decay.ndim == 3 else decay
    outputs = []
    for t in range(x.shape[1]):
        state = decay[:, t, :, None] * state + x[:, t, :, :, None] * B[:, t, :, None]
        outputs.append((state * C[:, t, :, None]).sum(-1))
    return torch.stack(outputs, 1) if outputs else x, state
