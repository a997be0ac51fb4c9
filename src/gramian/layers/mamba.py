"""Mamba (S6): a selective state space layer, whose input and output maps and step size depend on the input.

    u, z  = in_proj(x)                      u = silu(causal depthwise convolution of u)
    dt, B, C = x_proj(u)                    delta = softplus(dt_proj(dt))
    h_t[c, n] = exp(delta_t[c] A[c, n]) h_{t-1}[c, n] + delta_t[c] B_t[n] u_t[c]           A = -exp(A_log)
    y_t[c] = (sum_n C_t[n] h_t[c, n] + D[c] u_t[c]) * silu(z_t[c])                          out_proj(y)

After Gu and Dao, *Mamba: Linear-Time Sequence Modeling with Selective State Spaces* (arXiv 2312.00752), section 3.
Names, shapes and initialisation of the parameters are those of ``mamba_ssm.modules.mamba_simple.Mamba`` and of
transformers' ``MambaMixer``, so weights load both ways.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gramian.errors import ShapeError
from gramian.kernels import causal_conv1d, selective_scan
from gramian.layers.selective.layer import SelectiveLayer
from gramian.layers.selective.layout import Fixed, Layout, States
from gramian.layers.selective.signals import Signals

__all__ = ["Mamba", "MambaState"]


class MambaState(NamedTuple):
    """What a sequence leaves behind: the last ``d_conv - 1`` inputs of the convolution, and the recurrence's state.

    ``conv`` is ``(batch, d_conv - 1, d_inner)``, ``ssm`` is ``(batch, d_inner, d_state)``.
    """

    conv: Tensor
    ssm: Tensor


class Mamba(SelectiveLayer):
    """Selective state space layer with `d_state` real states for each of ``expand * d_model`` channels.

    Parameters
    ----------
    d_model
        Channels in and out.
    d_state
        States N of each inner channel.
    d_conv
        Width of the causal convolution.
    expand
        Inner channels are ``expand * d_model``.
    dt_rank
        Rank of the map to the step sizes; ``"auto"`` is ``ceil(d_model / 16)``.
    dt_min, dt_max
        Step sizes start log-uniform between these.
    conv_bias, bias
        Whether the convolution, and the projections in and out, have biases.
    backend
        Of the recurrence; see `gramian.kernels.selective_scan`.

    Attributes
    ----------
    A_log
        ``(d_inner, N)``.
    D
        ``(d_inner,)``.
    in_proj, conv1d, x_proj, dt_proj, out_proj
        Modules; the rows of ``x_proj.weight`` are ``[dt_rank | B: N | C: N]``.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        *,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        conv_bias: bool = True,
        bias: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        if min(d_model, d_state, d_conv, expand, rank) < 1:
            raise ShapeError(
                f"d_model={d_model}, d_state={d_state}, d_conv={d_conv}, expand={expand}, dt_rank={rank} were given; "
                "needed: at least 1 of each."
            )
        d_inner = expand * d_model
        self.d_model, self.d_inner, self.d_conv, self.dt_rank, self.backend = d_model, d_inner, d_conv, rank, backend
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=bias)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1, bias=conv_bias)
        self.x_proj = nn.Linear(d_inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=bias)
        self._start_steps(dt_min, dt_max)
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def _start_steps(self, dt_min: float, dt_max: float) -> None:
        """Step sizes log-uniform in ``[dt_min, dt_max]`` for a zero input, and as sensitive to it as 1/sqrt(rank)."""
        bound = self.dt_rank**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        logs = torch.rand(self.d_inner) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min)
        dt = logs.exp().clamp(min=1e-4)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus
        self.dt_proj.bias._no_weight_decay = True  # type: ignore[attr-defined]

    @property
    def d_state(self) -> int:
        """States of each channel now."""
        return self.A_log.shape[1]

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, d_state={self.d_state}"

    def initial_state(self, batch: int) -> MambaState:
        """The zero state."""
        zeros = self.A_log.new_zeros
        return MambaState(zeros(batch, self.d_conv - 1, self.d_inner), zeros(batch, self.d_inner, self.d_state))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs ``(batch, L, d_model)`` for inputs ``(batch, L, d_model)``, from a zero state."""
        return self._run(x, None)[0]

    def scan(self, x: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        """Outputs and final state, from `state` on: a long sequence can be fed in pieces."""
        y, final = self._run(x, self.initial_state(len(x)) if state is None else state)
        assert final is not None
        return y, final

    def step(self, x: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """One step: output ``(batch, d_model)`` and the new state for an input ``(batch, d_model)``."""
        y, state = self.scan(x[:, None], state)
        return y[:, 0], state

    def _run(self, x: Tensor, state: MambaState | None) -> tuple[Tensor, MambaState | None]:
        inputs, z = self.in_proj(x).chunk(2, -1)
        u, conv = causal_conv1d(
            inputs,
            self.conv1d.weight[:, 0],
            self.conv1d.bias,
            None if state is None else state.conv,
            final_state=state is not None,
        )
        dt, B, C = self._projected(u)
        y, ssm = selective_scan(
            u,
            dt,
            -self.A_log.exp(),
            B,
            C,
            self.D,
            z,
            self.dt_proj.bias,
            None if state is None else state.ssm,
            final_state=state is not None,
            backend=self.backend,
        )
        out = self.out_proj(y)
        if state is None:
            return out, None
        assert conv is not None
        assert ssm is not None
        return out, MambaState(conv, ssm)

    def _projected(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step sizes before bias and softplus ``(batch, L, d_inner)``, B and C ``(batch, L, N)``."""
        low, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], -1)
        return F.linear(low, self.dt_proj.weight), B, C

    @torch.no_grad()
    def signals(self, x: Tensor) -> Signals:
        """What drives the recurrence for inputs `x`; one group."""
        inputs, z = self.in_proj(x).chunk(2, -1)
        u, _ = causal_conv1d(inputs, self.conv1d.weight[:, 0], self.conv1d.bias)
        dt, B, C = self._projected(u)
        return Signals.of_one_group(
            u,
            F.softplus(dt + self.dt_proj.bias),
            -self.A_log.exp(),
            B,
            C,
            F.silu(z),
            self.out_proj.weight.detach(),
        )

    def layout(self) -> Layout:
        """Where the states are in the parameters."""
        return Layout(
            {"x_proj.weight": (0, (Fixed(self.dt_rank), States("B"), States("C"))), "A_log": (1, (States("A"),))},
            mixes=True,
        )

    def resized_(self) -> None:
        """Let the size that ``x_proj`` says it has follow its weight."""
        self.x_proj.out_features = self.x_proj.weight.shape[0]
