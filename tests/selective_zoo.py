"""Small selective layers whose states matter, the plain loops they are compared with, and models made of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gramian.kernels import selective_scan
from gramian.layers.calibration import Calibration, Evidence
from gramian.layers.mamba import Mamba
from gramian.layers.reducible import Spectrum
from gramian.layers.selective.layer import Selective, SelectiveLayer
from gramian.layers.selective.layout import Layout, States
from gramian.layers.selective.signals import Signals


def make_mamba(d_model: int = 4, d_state: int = 6, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Mamba:
    """A seeded layer whose states remember some steps, each state at rates of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = Mamba(d_model, d_state, dt_min=0.03, dt_max=0.3)
        with torch.no_grad():
            layer.A_log += 0.3 * torch.randn_like(layer.A_log)
            layer.x_proj.weight *= 2
            layer.D *= 0.3
    return layer.to(dtype)


def sequences(count: int = 12, length: int = 24, width: int = 4, *, seed: int = 7) -> Tensor:
    """Seeded white noise, ``(count, length, width)``, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, length, width, generator=generator, dtype=torch.float64)


class Grouped(SelectiveLayer):
    """Two groups of channels, each with a B and C of its own, and no feed-through: ``y = out(gate * scan(u))``."""

    def __init__(self, d_model: int = 4, d_state: int = 5, groups: int = 2, channels: int = 3) -> None:
        super().__init__()
        self.groups, self.channels, self.d_model = groups, channels, d_model
        inner = groups * channels
        self.into, self.steps, self.gate = (nn.Linear(d_model, inner) for _ in range(3))
        self.B, self.C = (nn.Linear(d_model, groups * d_state, bias=False) for _ in range(2))
        self.A_log = nn.Parameter(0.5 * torch.randn(channels, groups * d_state))
        self.out = nn.Linear(inner, d_model, bias=False)

    @property
    def d_state(self) -> int:
        return self.A_log.shape[1] // self.groups

    def forward(self, x: Tensor) -> Tensor:
        A = -self.A_log.exp().unflatten(1, (self.groups, -1)).movedim(1, 0).flatten(0, 1)
        B, C = (m(x).unflatten(2, (self.groups, -1)) for m in (self.B, self.C))
        y, _ = selective_scan(self.into(x), self.steps(x), A, B, C)
        return self.out(y * torch.sigmoid(self.gate(x)))

    @torch.no_grad()
    def signals(self, x: Tensor) -> Signals:
        u, dt, gate = self.into(x), F.softplus(self.steps(x)), torch.sigmoid(self.gate(x))
        u, dt, gate, B, C = (m.unflatten(2, (self.groups, -1)) for m in (u, dt, gate, self.B(x), self.C(x)))
        A = -self.A_log.exp().unflatten(1, (self.groups, -1)).movedim(1, 0)
        return Signals(u, dt, A, B, C, gate, self.out.weight.detach().unflatten(1, (self.groups, -1)))

    def layout(self) -> Layout:
        return Layout(
            {
                "A_log": (1, (States("A", self.groups),)),
                "B.weight": (0, (States("B", self.groups),)),
                "C.weight": (0, (States("C", self.groups),)),
            },
            mixes=True,
        )

    def resized_(self) -> None:
        for linear in (self.B, self.C):
            linear.out_features = linear.weight.shape[0]


def make_grouped(seed: int = 0, **sizes: int) -> Grouped:
    """A seeded layer with two groups, float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Grouped(**sizes).double()


def make_layer(kind: str, seed: int = 0) -> SelectiveLayer:
    """``"mamba"``, or ``"grouped"``."""
    return make_mamba(seed=seed) if kind == "mamba" else make_grouped(seed)


@torch.no_grad()
def states_by_hand(s: Signals) -> Tensor:
    """All states by the loop of the equations, ``(batch, L, groups, P, N)``."""
    h, states = torch.zeros(len(s.u), *s.A.shape, dtype=s.u.dtype), []
    for t in range(s.u.shape[1]):
        written = (s.dt[:, t] * s.u[:, t])[..., None] * s.B[:, t, :, None, :]
        h = torch.exp(s.dt[:, t, :, :, None] * s.A) * h + written
        states.append(h)
    return torch.stack(states, 1)


def effects_by_hand(s: Signals) -> Tensor:
    """What deleting each state takes from the output, ``e_n``: ``(batch, L, groups, d_out, N)``."""
    return torch.einsum("dgp,blgp,blgn,blgpn->blgdn", s.readout, s.gate, s.C, states_by_hand(s))


def without_states(layer: Selective, dropped: Iterable[int], group: int = 0) -> dict[str, Tensor]:
    """The layer's parameters with nothing read from the states `dropped` of a group."""
    values = {name: p.detach().clone() for name, p in layer.module.named_parameters()}
    if isinstance(layer, Mamba):
        rows, name = [layer.dt_rank + layer.d_state + n for n in dropped], "x_proj.weight"
    else:
        rows, name = [group * layer.d_state + n for n in dropped], "C.weight"
    values[name][rows] = 0
    return values


def evidence_of(x: Tensor, gradients: Tensor | None = None) -> Evidence:
    """Three quarters of the sequences to compute from, the others held out."""
    count = 3 * len(x) // 4
    return Evidence(list(x[:count]), list(x[count:]), None if gradients is None else list(gradients[:count]))


def spectrum_of(layer: Selective, x: Tensor | None = None, **calibration: Any) -> Spectrum:
    """What the layer says of white noise."""
    return layer.calibrated_spectrum(evidence_of(sequences() if x is None else x), Calibration([], **calibration))


class Net(nn.Module):
    """Sequences ``(batch, L, 3)`` to one number each, through residual layers."""

    def __init__(self, *layers: nn.Module, width: int = 4) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(3, width), nn.Linear(width, 1)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in layers)
        self.layers, self.dropout = nn.ModuleList(layers), nn.Dropout(0.1)

    def forward(self, u: Tensor) -> Tensor:
        x = self.encoder(u)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + self.dropout(layer(norm(x)))
        return self.head(x.mean(1))[:, 0]


def make_net(*layers: nn.Module, dtype: torch.dtype = torch.float64, seed: int = 0) -> Net:
    """A seeded model of `layers`, or of two Mamba layers."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(*(layers or (make_mamba(seed=1), make_mamba(d_state=8, seed=2)))).to(dtype)


def net_batches(count: int = 6, size: int = 4, length: int = 16, *, seed: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Inputs for `Net`, and what a selective layer finds easy: the sum of one channel where another one is large."""
    inputs = sequences(count * size, length, 3, seed=seed).split(size)
    return [(u, (u[:, :, 0] * torch.sigmoid(4 * u[:, :, 1])).sum(1) / length**0.5) for u in inputs]


def squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The loss of `Net` on a batch."""
    return (model(batch[0]) - batch[1]).square().mean()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int = 11) -> list[float]:
    """Some seeded steps on fresh data; the losses."""
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # for dropout
        for batch in net_batches(steps, 16, seed=seed):
            dtype = next(model.parameters()).dtype
            loss = squared_error(model, (batch[0].to(dtype), batch[1].to(dtype)))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
    return losses
