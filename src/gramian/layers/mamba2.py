"""Mamba-2: a selective state space layer with one decay a head, and so with matrix products for a recurrence.

    z, xBC, dt = in_proj(u)                 x, B, C = silu(causal depthwise convolution of xBC)
    delta = softplus(dt + dt_bias)          a = exp(-exp(A_log) delta)
    S_t[h] = a_t[h] S_{t-1}[h] + delta_t[h] x_t[h] B_t^T                 y_t[h] = S_t[h] C_t + D[h] x_t[h]
    out_proj(norm(y * silu(z)))

After Dao and Gu, *Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space
Duality* (arXiv 2405.21060), section 7. Names, shapes and initialisation of the parameters are those of
``mamba_ssm.modules.mamba2.Mamba2``; transformers' ``Mamba2Mixer`` has the same names and shapes, so weights load both
ways.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gramian.kernels import causal_conv1d, mamba2_mixer, ssd
from gramian.layers.gated_norm import GatedRMSNorm
from gramian.layers.mamba2_start import check_sizes, initial_step_bias
from gramian.layers.rms_norm import RMSNorm
from gramian.layers.selective.layer import SelectiveLayer
from gramian.layers.selective.layout import Fixed, Layout, States
from gramian.layers.selective.signals import Signals
from gramian.layers.watched import is_watched

__all__ = ["Mamba2", "Mamba2State"]


class Mamba2State(NamedTuple):
    """What a sequence leaves behind: the last ``d_conv - 1`` inputs of the convolution, and the recurrence's state.

    ``conv`` is ``(batch, d_conv - 1, d_inner + 2 n_groups d_key)``, ``ssm`` is ``(batch, heads, head_dim, d_state)``.
    """

    conv: Tensor
    ssm: Tensor


class Mamba2(SelectiveLayer):
    """Selective state space layer whose heads of `head_dim` channels have `d_state` real states for each channel.

    Parameters
    ----------
    d_model
        Channels in and out.
    d_state
        States N of each inner channel, as far as the convolution goes: B and C have N channels there.
    d_conv
        Width of the causal convolution.
    expand
        Inner channels are ``expand * d_model``.
    head_dim
        Channels that share a decay.
    n_groups
        Heads are split evenly over groups that share B and C.
    projection
        With ``projection=r`` the recurrence has r states: B and C are multiplied, after convolution and activation,
        by learned matrices. Such a layer can be reduced by any change of basis of its states, not only by leaving out
        some of them. With ``r = N`` it starts as the layer without projections.
    chunk, backend
        Of the recurrence; see `gramian.kernels.ssd`.
    norm_eps
        Of the normalisation.
    conv_bias, bias
        Whether the convolution, and the projections in and out, have biases.
    A_range
        ``exp(A_log)`` starts uniform between these.
    dt_min, dt_max
        Step sizes start log-uniform between these.

    Attributes
    ----------
    A_log, D, dt_bias
        ``(heads,)``.
    B_projection, C_projection
        ``(n_groups r, N)``, group after group; None without projections.
    in_proj, conv1d, norm, out_proj
        Modules; rows of ``in_proj.weight`` are ``[z: d_inner | x: d_inner | B: n_groups N | C: n_groups N | dt:
        heads]``, channels of ``conv1d`` are ``[x | B | C]``.
    """

    B_projection: nn.Parameter | None
    C_projection: nn.Parameter | None

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        d_conv: int = 4,
        expand: int = 2,
        head_dim: int = 64,
        n_groups: int = 1,
        projection: int | None = None,
        chunk: int | None = None,
        norm_eps: float = 1e-5,
        conv_bias: bool = True,
        bias: bool = False,
        A_range: tuple[float, float] = (1.0, 16.0),
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        d_inner = expand * d_model
        check_sizes(d_model, d_state, d_conv, d_inner, head_dim, n_groups, projection)
        heads, channels = d_inner // head_dim, d_inner + 2 * n_groups * d_state
        self.d_model, self.d_inner, self.d_conv, self.n_heads, self.n_groups = d_model, d_inner, d_conv, heads, n_groups
        self.head_dim, self.chunk, self.backend = head_dim, chunk, backend
        self.in_proj = nn.Linear(d_model, d_inner + channels + heads, bias=bias)
        self.conv1d = nn.Conv1d(channels, channels, d_conv, groups=channels, padding=d_conv - 1, bias=conv_bias)
        self.dt_bias = nn.Parameter(initial_step_bias(heads, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(*A_range).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedRMSNorm(d_inner, groups=n_groups, eps=norm_eps)
        self.out_proj = nn.Linear(d_inner, d_model, bias=bias)
        for name in ("B_projection", "C_projection"):
            start = None if projection is None else torch.eye(projection, d_state).repeat(n_groups, 1)
            self.register_parameter(name, None if start is None else nn.Parameter(start))
        for parameter in (self.dt_bias, self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]

    @property
    def d_key(self) -> int:
        """Channels of B and of C, in each group, that come out of the convolution."""
        return (self.conv1d.weight.shape[0] - self.d_inner) // (2 * self.n_groups)

    @property
    def d_state(self) -> int:
        """States of each channel that the recurrence has now."""
        return self.d_key if self.B_projection is None else self.B_projection.shape[0] // self.n_groups

    def extra_repr(self) -> str:
        projected = "" if self.B_projection is None else f" projected from {self.d_key}"
        return f"d_model={self.d_model}, d_state={self.d_state}{projected}, heads={self.n_heads} of {self.head_dim}"

    def initial_state(self, batch: int) -> Mamba2State:
        """The zero state."""
        zeros = self.A_log.new_zeros
        return Mamba2State(
            zeros(batch, self.d_conv - 1, self.conv1d.weight.shape[0]),
            zeros(batch, self.n_heads, self.head_dim, self.d_state),
        )

    def forward(self, u: Tensor) -> Tensor:
        """Outputs ``(batch, L, d_model)`` for inputs ``(batch, L, d_model)``, from a zero state."""
        if not self._is_usual():
            return self._run(u, None)[0]
        into, out = self.in_proj, self.out_proj
        if not (_is_plain(into) and _is_plain(out)):
            return out(self._mixed(into(u), None, None, None, None))
        return self._mixed(u, into.weight, into.bias, out.weight, out.bias)

    def block(self, x: Tensor, norm: RMSNorm) -> Tensor:
        """``x + self(norm(x))`` for ``(batch, L, d_model)``, in one operator where that can be."""
        into, out = self.in_proj, self.out_proj
        if not (self._is_usual() and _is_plain(into) and _is_plain(out)):
            return x + self(norm(x))
        weights = into.weight, into.bias, out.weight, out.bias
        return self._mixed(x, *weights, prenorm=norm.weight, prenorm_eps=norm.eps)

    def _is_usual(self) -> bool:
        """Whether this is the layer that `mamba2_mixer` computes."""
        norm = self.norm
        usual_norm = type(norm) is GatedRMSNorm and norm.gate_first and norm.groups == self.n_groups
        watched = is_watched(norm) or is_watched(self.conv1d)
        return self.B_projection is None and self.backend == "auto" and usual_norm and not watched

    def _mixed(
        self,
        u: Tensor,
        in_weight: Tensor | None,
        in_bias: Tensor | None,
        out_weight: Tensor | None,
        out_bias: Tensor | None,
        **prenorm: Any,
    ) -> Tensor:
        inner = self.conv1d.weight, self.conv1d.bias, self.dt_bias, self.A_log, self.D, self.norm.weight
        how = {"groups": self.n_groups, "eps": self.norm.eps, "chunk": self.chunk, **prenorm}
        return mamba2_mixer(u, in_weight, in_bias, *inner, out_weight, out_bias, **how)

    def scan(self, u: Tensor, state: Mamba2State | None = None) -> tuple[Tensor, Mamba2State]:
        """Outputs and final state, from `state` on: a long sequence can be fed in pieces."""
        y, final = self._run(u, self.initial_state(len(u)) if state is None else state)
        assert final is not None
        return y, final

    def step(self, u: Tensor, state: Mamba2State) -> tuple[Tensor, Mamba2State]:
        """One step: output ``(batch, d_model)`` and the new state for an input ``(batch, d_model)``."""
        y, state = self.scan(u[:, None], state)
        return y[:, 0], state

    def _run(self, u: Tensor, state: Mamba2State | None) -> tuple[Tensor, Mamba2State | None]:
        z, x, log_decay, delta, B, C, conv = self._driven(u, None if state is None else state.conv)
        y, ssm = ssd(
            x,
            log_decay,
            B,
            C,
            None if state is None else state.ssm,
            dt=delta,
            D=self.D,
            chunk=self.chunk,
            final_state=state is not None,
            backend=self.backend,
        )
        out = self.out_proj(self.norm(y.flatten(2), z))
        if state is None:
            return out, None
        assert conv is not None
        assert ssm is not None
        return out, Mamba2State(conv, ssm)

    @torch.no_grad()
    def signals(self, x: Tensor) -> Signals:
        """What drives the recurrence for inputs `x`; heads that share B and C are a group."""
        z, u, log_decay, delta, B, C, _ = self._driven(x, None)
        y, _ = ssd(u * delta[..., None], log_decay, B, C, chunk=self.chunk, backend=self.backend)
        gate = self.norm.factors(torch.addcmul(y, self.D[:, None], u).flatten(2).to(z.dtype), z)

        def grouped(m: Tensor) -> Tensor:
            return m.expand_as(u).reshape(*u.shape[:2], self.n_groups, -1)

        decays = -self.A_log.detach().exp()[:, None].expand(-1, self.head_dim).reshape(self.n_groups, -1, 1)
        return Signals(
            u=grouped(u),
            dt=grouped(delta[..., None]),
            A=decays.expand(-1, -1, self.d_state),
            B=B,
            C=C,
            gate=gate.unflatten(-1, (self.n_groups, -1)),
            readout=self.out_proj.weight.detach().unflatten(-1, (self.n_groups, -1)),
        )

    def layout(self) -> Layout:
        """Where the states are in the parameters: after the activation with projections, before it without."""
        B, C = States("B", self.n_groups), States("C", self.n_groups)
        if self.B_projection is not None:
            return Layout({"B_projection": (0, (B,)), "C_projection": (0, (C,))}, mixes=True, rotates=True)
        rows = {
            "in_proj": (Fixed(2 * self.d_inner), B, C, Fixed(self.n_heads)),
            "conv1d": (Fixed(self.d_inner), B, C),
        }
        parameters = {f"{module}.{name}" for module in rows for name, _ in getattr(self, module).named_parameters()}
        return Layout({name: (0, rows[name.split(".")[0]]) for name in sorted(parameters)})

    def resized_(self) -> None:
        """Let the sizes that projection and convolution say they have follow their weights."""
        self.in_proj.out_features = self.in_proj.weight.shape[0]
        channels = self.conv1d.weight.shape[0]
        self.conv1d.in_channels = self.conv1d.out_channels = self.conv1d.groups = channels

    def _driven(
        self, u: Tensor, conv: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Gates ``(batch, L, d_inner)``; x ``(batch, L, heads, head_dim)``; logs of the decays and step sizes
        ``(batch, L, heads)``; B and C ``(batch, L, n_groups, d_state)``; the last inputs of the convolution if there
        were some before."""
        keys = self.n_groups * self.d_key
        z, xBC, dt = self.in_proj(u).split([self.d_inner, self.d_inner + 2 * keys, self.n_heads], -1)
        xBC, conv = causal_conv1d(xBC, self.conv1d.weight[:, 0], self.conv1d.bias, conv, final_state=conv is not None)
        x, B, C = xBC.split([self.d_inner, keys, keys], -1)
        delta = F.softplus(torch.add(dt, self.dt_bias))  # the wider dtype of the two
        B, C = (m.unflatten(-1, (self.n_groups, -1)) for m in (B, C))
        if self.B_projection is not None and self.C_projection is not None:
            B, C = _projected(B, self.B_projection), _projected(C, self.C_projection)
        return z, x.unflatten(-1, (self.n_heads, -1)), -self.A_log.exp() * delta, delta, B, C, conv


def _is_plain(module: nn.Module) -> bool:
    """Whether it is a projection that nobody wants called."""
    return type(module) is nn.Linear and not is_watched(module)


def _projected(m: Tensor, projection: Tensor) -> Tensor:
    """``(batch, L, groups, N)`` to ``(batch, L, groups, r)``."""
    if m.shape[2] == 1:
        return F.linear(m, projection)
    return torch.einsum("blgn,grn->blgr", m, projection.unflatten(0, (m.shape[2], -1)))
