"""Linear attention with decay: keys write values into a matrix, queries read it, and it forgets.

    q, k, v = q_proj(u), k_proj(u), v_proj(u)                                       for each head:
    S_t = S_{t-1} diag(a_t) + v_t k_t^T                     y_t = S_t q_t
    out_proj(norm(y) * silu(g_proj(u)))

The decay ``a_t`` is a constant of the head (RetNet, arXiv 2307.08621), a number that depends on the input (gated
RetNet, in arXiv 2405.05254; Mamba-2 has such a one), or a vector that does, a number for each key channel (GLA, arXiv
2312.06635).

Nothing stands between the projections and the recurrence: no activation, position, normalisation or scale. With one
decay a head, any change of basis of the key dimension can therefore be absorbed in ``q_proj`` and ``k_proj``.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gramian.errors import ConfigError, ShapeError, did_you_mean
from gramian.kernels import gated_attention, ssd
from gramian.layers.gated_norm import GatedRMSNorm
from gramian.layers.selective.layer import SelectiveLayer
from gramian.layers.selective.layout import Layout, States
from gramian.layers.selective.signals import Signals

__all__ = ["Gate", "LinearAttention"]

Gate = Literal["fixed", "head", "key"]


class LinearAttention(SelectiveLayer):
    """Linear attention with `n_heads` heads of `d_state` key channels.

    Parameters
    ----------
    d_model
        Channels in and out.
    d_state
        Channels of the keys and queries of a head: states for each of its values.
    n_heads
        Heads.
    d_value
        Channels of the values of a head; ``d_model / n_heads`` if not given.
    gate
        ``"fixed"``: head h forgets ``2**(-5 - h)`` a step, as in RetNet. ``"head"``: the input decides how much each
        head forgets; for a zero input this starts as the fixed one. ``"key"``: how much each key channel forgets.
    gate_rank
        Rank of the map to the gates of ``"key"``.
    temperature
        Gates are ``sigmoid(.) ** (1 / temperature)``: the larger, the longer the memory.
    norm_eps
        Of the normalisation of each head's output.
    chunk, backend
        Of the recurrence; see `gramian.kernels.ssd` and, for ``"key"``, `gramian.kernels.gated_attention`.

    Attributes
    ----------
    q_proj, k_proj, v_proj, g_proj, gate_proj, norm, out_proj
        Modules; rows of the projections are head after head. ``gate_proj`` is None for fixed decays.
    """

    log_decay: Tensor

    def __init__(
        self,
        d_model: int,
        d_state: int,
        *,
        n_heads: int = 4,
        d_value: int | None = None,
        gate: Gate = "head",
        gate_rank: int = 16,
        temperature: float = 16.0,
        norm_eps: float = 1e-5,
        chunk: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        d_value = _checked_width(d_model, d_state, n_heads, d_value, gate, temperature)
        self.d_model, self.n_heads, self.d_value, self.gate = d_model, n_heads, d_value, gate
        self.temperature, self.chunk, self.backend = temperature, chunk, backend
        self.q_proj = nn.Linear(d_model, n_heads * d_state, bias=False)
        self.k_proj = nn.Linear(d_model, n_heads * d_state, bias=False)
        self.v_proj = nn.Linear(d_model, n_heads * d_value, bias=False)
        self.g_proj = nn.Linear(d_model, n_heads * d_value, bias=False)
        self.gate_proj = _gate_projection(gate, d_model, n_heads, d_state, gate_rank, temperature)
        self.norm = GatedRMSNorm(n_heads * d_value, groups=n_heads, gate_first=False, eps=norm_eps)
        self.out_proj = nn.Linear(n_heads * d_value, d_model, bias=False)
        self.register_buffer("log_decay", _fixed_decays(n_heads) if gate == "fixed" else None, persistent=False)
        with torch.no_grad():
            self.k_proj.weight.mul_(d_state**-0.5)  # a scale that no cut changes

    @property
    def d_state(self) -> int:
        """Key channels of each head now."""
        return self.k_proj.weight.shape[0] // self.n_heads

    def extra_repr(self) -> str:
        return (
            f"d_model={self.d_model}, d_state={self.d_state}, heads={self.n_heads} of {self.d_value}, "
            f"gate={self.gate!r}"
        )

    def initial_state(self, batch: int) -> Tensor:
        """The zero state, ``(batch, n_heads, d_value, d_state)``."""
        return self.k_proj.weight.new_zeros(batch, self.n_heads, self.d_value, self.d_state)

    def forward(self, u: Tensor) -> Tensor:
        """Outputs ``(batch, L, d_model)`` for inputs ``(batch, L, d_model)``, from a zero state."""
        return self._run(u, None, final_state=False)[0]

    def scan(self, u: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs and final state, from `state` on: a long sequence can be fed in pieces."""
        y, final = self._run(u, state, final_state=True)
        assert final is not None
        return y, final

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step: output ``(batch, d_model)`` and the new state for an input ``(batch, d_model)``."""
        y, state = self.scan(u[:, None], state)
        return y[:, 0], state

    def _run(self, u: Tensor, state: Tensor | None, final_state: bool) -> tuple[Tensor, Tensor | None]:
        q, k, v = (m(u).unflatten(-1, (self.n_heads, -1)) for m in (self.q_proj, self.k_proj, self.v_proj))
        run = gated_attention if self.gate == "key" else ssd
        y, final = run(
            v, self.log_gates(u), k, q, state, chunk=self.chunk, final_state=final_state, backend=self.backend
        )
        return self.out_proj(self.norm(y.flatten(2), self.g_proj(u))), final

    def log_gates(self, u: Tensor) -> Tensor:
        """Logs of the decays, ``(batch, L, n_heads)``, or ``(batch, L, n_heads, d_state)`` for one a key channel."""
        if self.gate_proj is None:
            return self.log_decay.expand(*u.shape[:2], -1)
        logits = self.gate_proj(u)
        logs = F.logsigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32))) / self.temperature
        return logs.unflatten(-1, (self.n_heads, -1)) if self.gate == "key" else logs

    @torch.no_grad()
    def signals(self, x: Tensor) -> Signals:
        """What drives the recurrence for inputs `x`; every head is a group."""
        q, k, v = (m(x).unflatten(-1, (self.n_heads, -1)) for m in (self.q_proj, self.k_proj, self.v_proj))
        logs = self.log_gates(x)
        run = gated_attention if self.gate == "key" else ssd
        y, _ = run(v, logs, k, q, None, chunk=self.chunk, backend=self.backend)
        gate = self.norm.factors(y.flatten(2), self.g_proj(x)).unflatten(-1, (self.n_heads, -1))
        forgets = torch.zeros_like(v) if self.gate == "key" else -logs[..., None].expand_as(v)
        return Signals(
            u=v,
            dt=forgets,
            A=-v.new_ones(self.n_heads, self.d_value, self.d_state),
            B=k,
            C=q,
            gate=gate,
            readout=self.out_proj.weight.detach().unflatten(-1, (self.n_heads, -1)),
            gain=torch.ones_like(v),
            log_gate=logs if self.gate == "key" else None,
        )

    def layout(self) -> Layout:
        """Where the states are in the parameters: keys and queries, and with gates of their own these."""
        keys, queries = (0, (States("B", self.n_heads),)), (0, (States("C", self.n_heads),))
        parameters: dict[str, tuple[int, tuple[States, ...]]] = {"k_proj.weight": keys, "q_proj.weight": queries}
        if self.gate != "key":
            return Layout(parameters, mixes=True, rotates=True)
        gates = (0, (States("A", self.n_heads),))
        return Layout({**parameters, "gate_proj.1.weight": gates, "gate_proj.1.bias": gates})

    def resized_(self) -> None:
        """Let the sizes that the projections say they have follow their weights."""
        projections = [self.q_proj, self.k_proj]
        if self.gate == "key":
            assert isinstance(self.gate_proj, nn.Sequential)
            assert isinstance(self.gate_proj[1], nn.Linear)
            projections.append(self.gate_proj[1])
        for projection in projections:
            projection.out_features = projection.weight.shape[0]


def _fixed_decays(heads: int) -> Tensor:
    return torch.log1p(-(2.0 ** (-5.0 - torch.arange(heads))))


def _gate_projection(
    gate: Gate, d_model: int, n_heads: int, d_state: int, rank: int, temperature: float
) -> nn.Module | None:
    if gate == "fixed":
        return None
    if gate == "key":
        return nn.Sequential(nn.Linear(d_model, rank, bias=False), nn.Linear(rank, n_heads * d_state))
    projection = nn.Linear(d_model, n_heads)
    with torch.no_grad():
        projection.bias.copy_(torch.logit((_fixed_decays(n_heads) * temperature).exp()))
    return projection


def _checked_width(d_model: int, d_state: int, n_heads: int, d_value: int | None, gate: str, temperature: float) -> int:
    """Channels of the values of a head, of a configuration that can be built."""
    if gate not in get_args(Gate):
        known = get_args(Gate)
        raise ConfigError(f"gate='{gate}' was given; needed: {', '.join(known)}.{did_you_mean(gate, known)}")
    if temperature <= 0:
        raise ConfigError(f"temperature={temperature} was given; needed: more than zero.", cure="temperature=16.0")
    if min(d_model, d_state, n_heads, 1 if d_value is None else d_value) < 1:
        raise ShapeError(
            f"d_model={d_model}, d_state={d_state}, n_heads={n_heads}, d_value={d_value} were given; "
            "needed: at least 1 of each."
        )
    if d_value is None and d_model % n_heads:
        raise ShapeError(
            f"d_model={d_model} and n_heads={n_heads} were given, without d_value.",
            "A head has d_model / n_heads values then, which must be a whole number.",
            f"d_value={max(1, d_model // n_heads)}",
        )
    return d_model // n_heads if d_value is None else d_value
