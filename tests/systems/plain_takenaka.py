"""The Malmquist-Takenaka recurrence in plain torch: the specification of the compiled kernel, for complex factors."""

from __future__ import annotations

import torch
from torch import Tensor

from gramian.systems.precise import one_minus_products, pole_differences

__all__ = ["plain_takenaka_factor"]


def plain_takenaka_factor(logs: Tensor, B: Tensor) -> Tensor:
    """``F`` (..., N, N) with ``F F* = P`` for poles ``exp(logs)`` (..., N) and inputs `B` (..., N, H)."""
    g, n, columns = B.clone(), B.shape[-2], []
    self_products = one_minus_products(logs, logs.conj()).real  # 1 - |l|^2
    alive = torch.ones(logs.shape, dtype=torch.bool)
    for _ in range(n):
        energy = torch.where(alive, g.abs().square().sum(-1) / self_products, torch.full_like(logs.real, -1.0))
        pivot = energy.argmax(-1, keepdim=True)
        if (energy.gather(-1, pivot) <= 0).all():
            break
        log_p = logs.gather(-1, pivot)
        g_p = g.gather(-2, pivot[..., None].expand(*pivot.shape, g.shape[-1]))  # (..., 1, H)
        length = g_p.abs().square().sum(-1, keepdim=True).sqrt()
        v = torch.where(length > 0, g_p / length.clamp(min=torch.finfo(torch.float64).tiny), g_p).mH  # (..., H, 1)
        along = g @ v  # (..., N, 1)
        products = one_minus_products(logs, log_p.conj())
        width = self_products.gather(-1, pivot).sqrt()
        column = along.squeeze(-1) * (width / products)
        columns.append(torch.where(alive, column, torch.zeros_like(column)))
        blaschke = pole_differences(logs, log_p) / products
        if B.shape[-1] == 1:  # the one input is all there is: multiply, so that nothing cancels
            g = torch.where(length > 0, g * blaschke[..., None], g)
        else:
            g = g - (along * (1 - blaschke)[..., None]) @ v.mH
        alive = alive.scatter(-1, pivot, False)
        g = g * alive[..., None]
    return torch.stack(columns, -1) if columns else torch.zeros(*logs.shape, 1, dtype=torch.complex128)
