"""Mixers built like Mamba's: a scan whose A is diagonal for every channel, B and C straight from a projection.

    u, z  = in_proj(x)                      u = act(causal depthwise convolution of u)
    dt, B, C = x_proj(u)                    delta = softplus(dt_proj(dt))
    h_t[c, n] = exp(delta_t[c] A[c, n]) h_{t-1}[c, n] + delta_t[c] B_t[n] u_t[c]           A = -exp(A_log)
    y_t[c] = (sum_n C_t[n] h_t[c, n] + D[c] u_t[c]) * silu(z_t[c])                          out_proj(y)

The recurrence is `gramian.layers.mamba.Mamba`'s; what differs is where parameters are and what they are called.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gramian.kernels import causal_conv1d
from gramian.layers.adapters.layouts import MixerLayout
from gramian.layers.adapters.mixers import MixerAdapter
from gramian.layers.selective.layout import Fixed, Layout, States
from gramian.layers.selective.signals import Signals

__all__ = ["MambaMixerAdapter", "ZambaMixerAdapter"]


class MambaMixerAdapter(MixerAdapter):
    """transformers' ``MambaMixer``: nothing between the projection and the scan, so that states can be mixed."""

    size_key = "state_size"

    @property
    def d_state(self) -> int:
        """States of each channel now."""
        return self.mixer.A_log.shape[-1]

    @torch.no_grad()
    def signals(self, x: Tensor) -> Signals:
        """What drives the recurrence for inputs ``(batch, L, d_model)``; one group."""
        m = self.mixer
        inputs, z = m.in_proj(x).chunk(2, -1)
        u = m.act(convolved(m.conv1d, inputs))
        rank, N = m.dt_proj.weight.shape[1], self.d_state
        dt, B, C = self.normalized(*m.x_proj(u).split([rank, N, N], -1))
        dt = F.softplus(F.linear(dt, m.dt_proj.weight).float() + m.dt_proj.bias.float())
        return Signals.of_one_group(u, dt, -m.A_log.float().exp(), B, C, F.silu(z), m.out_proj.weight).float()

    def normalized(self, dt: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the mixer does to the outputs of ``x_proj`` ahead of the scan: nothing."""
        return dt, B, C

    def layout(self) -> Layout:
        """Where the states are in the parameters."""
        rows = (Fixed(self.mixer.dt_proj.weight.shape[1]), States("B"), States("C"))
        return Layout({"x_proj.weight": (0, rows), "A_log": (1, (States("A"),))}, mixes=True)

    def resized_(self) -> None:
        """Let the sizes that the mixer and its projection say they have follow."""
        self.mixer.x_proj.out_features = self.mixer.x_proj.weight.shape[0]
        self.mixer.ssm_state_size = self.d_state


class ZambaMixerAdapter(MixerAdapter):
    """transformers' ``ZambaMambaMixer``: heads with an ``x_proj`` each, which are groups here."""

    size_key = "mamba_d_state"

    @property
    def d_state(self) -> int:
        """States of each channel now."""
        return self.mixer.A_log.shape[-1]

    @torch.no_grad()
    def signals(self, x: Tensor) -> Signals:
        """What drives the recurrence for inputs ``(batch, L, d_model)``; a group for each head."""
        m = self.mixer
        heads, P = m.dt_proj_bias.shape
        inputs, z = m.in_proj(x).unflatten(-1, (-1, 2)).unbind(-1)  # a channel's input and its gate are neighbours
        u = m.act(convolved(m.conv1d, inputs)).unflatten(-1, (heads, P))
        rank, N = m.dt_proj_weight.shape[-1], self.d_state
        projected = torch.einsum("blhp,hrp->blhr", u, m.x_proj_weight)
        dt, B, C = projected.split([rank, N, N], -1)
        dt = torch.einsum("blhr,hpr->blhp", dt, m.dt_proj_weight).float()
        A = -m.A_log.float().exp()
        gate, readout = F.silu(z.unflatten(-1, (heads, P))), m.out_proj.weight.unflatten(1, (heads, P))
        return Signals(u, F.softplus(dt + m.dt_proj_bias.float()), A, B, C, gate, readout).float()

    def layout(self) -> Layout:
        """Where the states are in the parameters; every head has a slice of its own."""
        rows = (Fixed(self.mixer.dt_proj_weight.shape[-1]), States("B"), States("C"))
        parameters = {"x_proj_weight": (1, rows), "A_log": (2, (States("A"),))}
        return MixerLayout(parameters, mixes=True, stacked=frozenset(parameters))

    def resized_(self) -> None:
        """Let the size that the mixer says it has follow."""
        self.mixer.ssm_state_size = self.d_state


def convolved(conv1d: Any, x: Tensor) -> Tensor:
    """A mixer's causal depthwise convolution of ``(batch, L, channels)``, without its activation."""
    return causal_conv1d(x, conv1d.weight[:, 0], conv1d.bias, activation=None)[0]
