"""Mixers built like Mamba-2's: one decay a head, B and C through a convolution with the inputs, a gated norm after.

    z, xBC, dt = in_proj(x)                 x, B, C = act(causal depthwise convolution of xBC)
    delta = clamp(softplus(dt + dt_bias))
    S_t = exp(delta_t A) S_{t-1} + delta_t x_t B_t^T          y_t = S_t C_t + D x_t          A = -exp(A_log), of a head
    out_proj(weight * v / rms(v)),  v = y * silu(z)           with a root mean square for each group of channels

Groups of heads share B and C. An activation follows their projection, so that states can only be selected, in each
group its own. The norm counts as the scale that it has for what was seen: its change with the states is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gramian.kernels import ssd
from gramian.layers.adapters.mamba1 import convolved
from gramian.layers.adapters.mixers import MixerAdapter
from gramian.layers.selective.layout import Fixed, Layout, States
from gramian.layers.selective.signals import Signals

__all__ = ["BambaMixerAdapter", "FalconH1MixerAdapter", "Mamba2MixerAdapter", "NemotronHMixerAdapter"]


class Mamba2MixerAdapter(MixerAdapter):
    """transformers' ``Mamba2Mixer``."""

    size_key = "state_size"

    @property
    def d_inner(self) -> int:
        """Inner channels: heads times channels of a head."""
        return self.mixer.out_proj.weight.shape[1]

    @property
    def d_state(self) -> int:
        """States of each channel now."""
        channels = self.mixer.conv1d.weight.shape[0] - self.d_inner
        return channels // (2 * self.mixer.n_groups)

    @torch.no_grad()
    def signals(self, x: Tensor) -> Signals:
        """What drives the recurrence for inputs ``(batch, L, d_model)``."""
        m, G, N = self.mixer, self.mixer.n_groups, self.d_state
        z, xBC, dt = self.projected(x).split([self.d_inner, self.d_inner + 2 * G * N, m.num_heads], -1)
        u, B, C = m.act(convolved(m.conv1d, xBC)).float().split([self.d_inner, G * N, G * N], -1)
        B, C, u = B.unflatten(-1, (G, N)), C.unflatten(-1, (G, N)), u.unflatten(-1, (m.num_heads, -1))
        dt = F.softplus(dt.float() + m.dt_bias.float()).clamp(*m.time_step_limit)
        A = -m.A_log.float().exp()
        y = ssd(u * dt[..., None], dt * A, B, C)[0] + m.D.float()[:, None] * u
        gate = self.gate(y.flatten(2), z.float())
        P = u.shape[-1]
        return Signals(
            u.reshape(*u.shape[:2], G, -1),
            dt.repeat_interleave(P, -1).unflatten(-1, (G, -1)),
            A.repeat_interleave(P).view(G, -1, 1).expand(-1, -1, N),
            B,
            C,
            gate.unflatten(-1, (G, -1)),
            m.out_proj.weight.float().unflatten(1, (G, -1)),
        )

    def projected(self, x: Tensor) -> Tensor:
        """``[z | x | B | C | dt]``, ``(batch, L, rows)``."""
        return self.mixer.in_proj(x)

    def gate(self, y: Tensor, z: Tensor) -> Tensor:
        """The factor of each channel between the scan's outputs `y` and ``out_proj``, ``(batch, L, d_inner)``."""
        norm = self.mixer.norm
        return norm.weight.float() * F.silu(z) * inverse_rms(y * F.silu(z), norm.group_size, norm.variance_epsilon)

    def layout(self) -> Layout:
        """Where the states are in the parameters."""
        m, G = self.mixer, self.mixer.n_groups
        channels = (Fixed(self.d_inner), States("B", G), States("C", G))
        rows = (Fixed(self.d_inner), *channels, Fixed(m.num_heads))
        parameters = {"in_proj": rows, "conv1d": channels}
        return Layout(
            {
                f"{name}.{kind}": (0, parts)
                for name, parts in parameters.items()
                for kind in ("weight", "bias")
                if getattr(getattr(m, name), kind) is not None
            }
        )

    def resized_(self) -> None:
        """Let the sizes that the mixer, its projection and its convolution say they have follow."""
        m = self.mixer
        m.in_proj.out_features = m.in_proj.weight.shape[0]
        channels = m.conv1d.weight.shape[0]
        m.conv_dim = m.conv1d.in_channels = m.conv1d.out_channels = m.conv1d.groups = channels
        m.ssm_state_size = self.d_state


class BambaMixerAdapter(Mamba2MixerAdapter):
    """The mixers of transformers' Bamba, GraniteMoeHybrid and Zamba2: `Mamba2MixerAdapter` with another key."""

    size_key = "mamba_d_state"


class NemotronHMixerAdapter(Mamba2MixerAdapter):
    """transformers' ``NemotronHMamba2Mixer``."""

    size_key = "ssm_state_size"


class FalconH1MixerAdapter(Mamba2MixerAdapter):
    """transformers' ``FalconH1Mixer``: a multiplier for every part of the projection; the norm is optional."""

    size_key = "mamba_d_state"

    def projected(self, x: Tensor) -> Tensor:
        m = self.mixer
        return m.in_proj(x * m.ssm_in_multiplier) * m.mup_vector

    def gate(self, y: Tensor, z: Tensor) -> Tensor:
        m, norm = self.mixer, self.mixer.norm
        if isinstance(norm, nn.Identity):
            return F.silu(z)
        seen = y if norm.norm_before_gate else y * F.silu(z)
        return norm.weight.float() * F.silu(z) * inverse_rms(seen, self.d_inner // m.n_groups, norm.variance_epsilon)

    def resized_(self) -> None:
        super().resized_()
        m, both = self.mixer, 2 * self.d_inner
        m.groups_time_state_size = m.n_groups * self.d_state
        sizes = [self.d_inner, self.d_inner, *[m.groups_time_state_size] * 2, m.num_heads]
        old = (m.mup_vector.shape[-1] - both - m.num_heads) // 2
        starts = [0, self.d_inner, both, both + old, both + 2 * old]  # of the parts, each with one multiplier
        parts = [m.mup_vector[..., i : i + 1].expand(1, 1, n) for i, n in zip(starts, sizes, strict=True)]
        m.mup_vector = torch.cat(parts, -1)


def inverse_rms(x: Tensor, group_size: int, eps: float) -> Tensor:
    """One over the root mean square of each group of channels, for each channel, ``(batch, L, channels)``."""
    groups = x.unflatten(-1, (-1, group_size))
    return (groups.square().mean(-1, keepdim=True) + eps).rsqrt().expand_as(groups).flatten(-2)
