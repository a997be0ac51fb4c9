"""Small LRU layers, and what is asked of them again and again."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from gramian.layers.lru import LRU

Realization = Literal["real", "complex"]
Batches = list[tuple[Tensor, Tensor]]
BOTH = pytest.mark.parametrize("realization", ["real", "complex"])


def make_lru(
    d_model: int = 3,
    d_state: int = 8,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    realization: Realization = "real",
    r_min: float = 0.4,
    r_max: float = 0.95,
    max_phase: float = 6.28,
    fades_to: float = 1.0,
) -> LRU:
    """A seeded layer; its last state is heard `fades_to` times as loud as its first one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = LRU(d_model, d_state, r_min=r_min, r_max=r_max, max_phase=max_phase, realization=realization)
    layer = layer.to(dtype)
    fade = fades_to ** torch.linspace(0, 1, d_state, dtype=dtype)
    with torch.no_grad():
        layer.C_re *= fade
        layer.C_im *= fade
    return layer


def inputs(layer: LRU, batch: int = 2, length: int = 40, seed: int = 7) -> Tensor:
    """Seeded white noise in the dtype of `layer`."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(batch, length, layer.d_model, generator=generator, dtype=torch.float64)
    return u.to(layer.nu_log.dtype)


def examples(layer: LRU, count: int = 4) -> Batches:
    """Batches of inputs and unrelated targets."""
    return [(inputs(layer, 4, 64, seed=2 * i), inputs(layer, 4, 64, seed=2 * i + 1)) for i in range(count)]


def mean_gradients(layer: LRU, batches: Batches) -> dict[str, Tensor]:
    """Gradients of the squared error, averaged over `batches`."""
    layer.zero_grad()
    for u, target in batches:
        ((layer(u) - target).square().mean() / len(batches)).backward()
    gradients = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    layer.zero_grad()
    return gradients


def copied(layer: torch.nn.Module) -> dict[str, Tensor]:
    """All parameters, as they are now."""
    return {name: p.detach().clone() for name, p in layer.named_parameters()}
