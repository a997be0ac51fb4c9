"""Teach gramian a mixer it has never seen: the adapter below is all it takes.

The mixer is a small selective layer with names of its own::

    x, gate = inputs(u)        b, c = b_proj(x), c_proj(x)        dt = softplus(dt_proj(x))
    h_t[p, n] = exp(-dt_t[p] rate[p, n]) h_{t-1}[p, n] + dt_t[p] b_t[n] x_t[p]
    out(sum_n c_t[n] h_t[:, n] * silu(gate_t))

Run it: python examples/own_mixer.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gramian import Rank, compress_
from gramian.kernels import selective_scan
from gramian.layers.adapters.registry import register_adapter
from gramian.layers.selective.adapter import SelectiveAdapter
from gramian.layers.selective.layout import Layout, States
from gramian.layers.selective.signals import Signals


class OwnMixer(nn.Module):
    """Somebody's layer, which knows nothing of gramian."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.states = states
        self.inputs, self.out = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.b_proj, self.c_proj = nn.Linear(width, states), nn.Linear(width, states)
        self.dt_proj = nn.Linear(width, width)
        self.log_rate = nn.Parameter(torch.rand(width, states))

    def forward(self, u: Tensor) -> Tensor:
        x, gate = self.inputs(u).chunk(2, -1)
        y, _ = selective_scan(x, self.dt_proj(x), -self.log_rate.exp(), self.b_proj(x), self.c_proj(x), z=gate)
        return self.out(y)


class OwnMixerAdapter(SelectiveAdapter):
    """What gramian has to know: what drives the scan, where the states are, and which sizes follow."""

    module: OwnMixer

    @property
    def d_state(self) -> int:
        return self.module.log_rate.shape[1]

    def signals(self, x: Tensor) -> Signals:
        m = self.module
        u, gate = m.inputs(x).chunk(2, -1)
        dt, A = F.softplus(m.dt_proj(u)), -m.log_rate.exp()
        return Signals.of_one_group(u, dt, A, m.b_proj(u), m.c_proj(u), F.silu(gate), m.out.weight)

    def layout(self) -> Layout:
        B = {f"b_proj.{kind}": (0, (States("B"),)) for kind in ("weight", "bias")}
        C = {f"c_proj.{kind}": (0, (States("C"),)) for kind in ("weight", "bias")}
        return Layout({**B, **C, "log_rate": (1, (States("A"),))}, mixes=True)

    def resized_(self) -> None:
        self.module.states = self.module.b_proj.out_features = self.module.c_proj.out_features = self.d_state


register_adapter(OwnMixer, OwnMixerAdapter)

if __name__ == "__main__":
    torch.manual_seed(0)
    model = nn.Sequential(OwnMixer(12, 16), nn.LayerNorm(12), OwnMixer(12, 16))
    batches = [torch.randn(4, 40, 12) for _ in range(6)]
    before = model(batches[0])
    print(compress_(model, Rank(6), calibration=batches))
    error = (model(batches[0]) - before).norm() / before.norm()
    print(f"relative change of the model's output: {error:.3f}; states: {[model[0].states, model[2].states]}")
