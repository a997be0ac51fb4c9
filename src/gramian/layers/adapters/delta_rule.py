"""Linear attention by the delta rule, seen and left alone: how many directions of its keys the state makes use of.

    S_t = diag(a_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T          o_t = S_t^T q_t,      for each head

A projection of the keys commutes with the transition only where it is orthogonal and nothing is left out: every
direction that is dropped changes what the others hold, so there is no cut whose error would be known. What can be said
is what a readout of fewer directions would lose: ``P = E S_t S_t^T`` and ``Q = E q_t q_t^T`` are balanced as for linear
attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gramian.errors import GramianError
from gramian.layers.adapters.borrowed import called_by, forward_with
from gramian.layers.calibration import Calibration, Evidence
from gramian.layers.reducible import Spectrum
from gramian.layers.reduction import Reduction
from gramian.systems.gramians import square_root
from gramian.systems.projections import Choice, balanced

__all__ = ["DeltaRuleAdapter"]

SCANS = ("torch_chunk_gated_delta_rule", "chunk_kimi_delta_attention")
_MOST_SEQUENCES = 16
_WHY = (
    "the delta rule's transition a (I - beta k k^T) mixes all directions of the keys: "
    "none can be left out without changing what the others hold"
)


class DeltaRuleAdapter:
    """Stands for a mixer of Qwen3-Next, OLMo-Hybrid, Kimi-Linear and their kin; it can be analysed, not cut.

    Parameters
    ----------
    module
        The mixer.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    @property
    def d_state(self) -> int:
        """Length of a head's keys."""
        module: Any = self.module
        return getattr(module, "head_k_dim", None) or module.head_dim

    def hidden(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        """``hidden_states``, and the mask of real steps ``(batch, L)`` where one is given."""
        given = {**dict(zip(("hidden_states", "cache", "attention_mask"), args, strict=False)), **kwargs}
        return given["hidden_states"], given.get("attention_mask")

    def spectrum(self) -> Spectrum:
        """Refused: it depends on data."""
        raise GramianError(
            f"the spectrum of {type(self.module).__name__} depends on data, and no data was given.",
            "Its keys, queries and gates change with every token.",
            "compress_(model, policy, calibration=batches, dry_run=True), or gramian analyze --calibration FILE.",
        )

    @torch.no_grad()
    def calibrated_spectrum(self, evidence: Evidence, calibration: Calibration) -> Spectrum:
        """What each direction of the keys gives to the outputs of the heads, over the outputs' root mean square."""
        sums: list[tuple[Tensor, ...]] = []
        for x in evidence.inputs[:_MOST_SEQUENCES]:
            states, queries, outputs = (t.double().cpu() for t in self.states(x[None]))
            P = torch.einsum("lhnv,lhmv->hnm", states, states)
            Q = torch.einsum("lhn,lhm->hnm", queries, queries)
            sums.append((P, Q, outputs.square().sum((0, 2))))
        P, Q, energy = (torch.stack(each).sum(0) for each in zip(*sums, strict=True))
        steps = sum(len(x) for x in evidence.inputs[:_MOST_SEQUENCES])
        s = torch.linalg.svdvals(square_root(Q).mT @ square_root(P))
        relative = s / (steps * energy).sqrt().clamp(min=torch.finfo(torch.float64).tiny)[:, None]
        said = f"balanced directions of keys ({steps} calibration steps; for analysis only)"
        return Spectrum(relative.mean(0), said, self.d_state)

    def states(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States ``(L, heads, N, V)``, queries ``(L, heads, N)`` and outputs ``(L, heads, V)`` for one sequence."""
        seen: list[tuple[Tensor, ...]] = []

        def scan(q: Tensor, k: Tensor, v: Tensor, *, g: Tensor, beta: Tensor, **_: Any) -> tuple[Tensor, None]:
            seen.append((q, k, v, g, beta))
            return torch.zeros_like(v), None

        (name,) = called_by(self.module).keys() & set(SCANS)
        forward_with(self.module, {name: scan})(x)
        q, k, v, g, beta = (t[0].float() for t in seen[0])
        q, k = (_unit(t).repeat_interleave(v.shape[1] // t.shape[1], 1) for t in (q, k))
        q = q * q.shape[-1] ** -0.5
        decay = g.exp()[..., None] if g.ndim == 3 else g.exp()[..., None, None]  # a rate for each key channel, or one
        S, states = v.new_zeros(*k.shape[1:], v.shape[-1]), []
        for t in range(len(v)):
            S = decay[t] * S
            missing = v[t] - torch.einsum("hn,hnv->hv", k[t], S)
            S = S + torch.einsum("hn,hv->hnv", k[t] * beta[t, :, None], missing)
            states.append(S)
        history = torch.stack(states)
        return history, q, torch.einsum("lhnv,lhn->lhv", history, q)

    def propose(self, rank: int, choose: Choice = balanced, spectrum: Spectrum | None = None) -> Reduction:
        """Refused, with the reason."""
        return Reduction(self.d_state, self.d_state, rank, {}, {}, reason=_WHY)

    def apply_(self, reduction: Reduction) -> None:
        """Refused: there is nothing to apply."""
        raise GramianError(f"a reduction was given to {type(self.module).__name__}, which cannot be cut: {_WHY}.")


def _unit(x: Tensor) -> Tensor:
    """Vectors of length one, with the floor that the scans have."""
    return x * (x.square().sum(-1, keepdim=True) + 1e-6).rsqrt()
