"""A sequence model in the form of the literature: encoder, blocks around a state space layer, pooling, head.

A block around an LRU is ``norm -> LRU -> GELU -> dropout -> GLU -> dropout``, with a skip connection around it. The
other layers gate and project themselves; their block is ``RMS norm -> layer -> dropout`` with a skip connection, as in
``mamba_ssm``'s ``Block``, and a last RMS norm stands before the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gramian.errors import ConfigError, ShapeError
from gramian.kernels.linear import linear
from gramian.kernels.normalization import normalize_rows
from gramian.kernels.pointwise import gelu_dropout, glu_dropout_add
from gramian.lab.mixers import build_mixer
from gramian.layers.lru import LRU
from gramian.layers.residual import residual
from gramian.layers.rms_norm import RMSNorm
from gramian.layers.watched import is_watched

__all__ = ["Block", "Head", "MixerBlock", "SequenceModel", "SequenceNorm"]

_MOMENTUM = 0.1  # of the running statistics, as in torch
_EPS = 1e-5  # of the RMS norms, as in mamba_ssm

Head = Literal["classification", "regression", "next_token"]


class SequenceNorm(nn.Module):
    """Normalise channels of ``(batch, L, H)``: over batch and time (``"batch"``, no affine part) or per step.

    With a mask, steps of padding neither count in the statistics of the batch nor are meaningful in the output.
    """

    def __init__(self, d_model: int, kind: Literal["batch", "layer"]) -> None:
        super().__init__()
        self.kind = kind
        batch_norm = nn.BatchNorm1d(d_model, momentum=_MOMENTUM, affine=False)
        self.norm = batch_norm if kind == "batch" else nn.LayerNorm(d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.kind == "layer":
            return self.norm(x)
        if mask is None or not self.training:
            return self._over_rows(x.flatten(0, 1)).view_as(x)
        return torch.zeros_like(x).masked_scatter(mask[..., None], self._over_rows(x[mask]))

    def _over_rows(self, rows: Tensor) -> Tensor:
        """What ``self.norm`` does, running statistics included, by the faster kernel while training."""
        norm = self.norm
        assert isinstance(norm, nn.BatchNorm1d)
        if not self.training or len(rows) < 2:
            return norm(rows)
        y, mean, variance = normalize_rows(rows, norm.eps)
        with torch.no_grad():
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert norm.num_batches_tracked is not None
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), _MOMENTUM)
            unbiased = variance * (len(rows) / (len(rows) - 1))
            norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), _MOMENTUM)
            norm.num_batches_tracked += 1
        return y


class Block(nn.Module):
    """One residual block around an LRU with `d_state` states."""

    def __init__(self, d_model: int, lru: LRU, dropout: float, norm: Literal["batch", "layer"]) -> None:
        super().__init__()
        self.norm = SequenceNorm(d_model, norm)
        self.lru = lru
        self.glu = nn.Linear(d_model, 2 * d_model)
        self.dropout = dropout

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        rate = self.dropout if self.training else 0.0
        y = gelu_dropout(self.lru(self.norm(x, mask)), rate)
        return glu_dropout_add(linear(y, self.glu.weight, self.glu.bias), x, rate)

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}"


class MixerBlock(nn.Module):
    """A residual block around a layer that gates and projects itself."""

    def __init__(self, d_model: int, mixer: nn.Module, dropout: float) -> None:
        super().__init__()
        self.norm = RMSNorm(d_model, eps=_EPS)
        self.mixer = mixer
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        dropout = self.dropout
        if type(dropout) is not nn.Dropout or (dropout.training and dropout.p) or is_watched(dropout):
            return x + dropout(self.mixer(self.norm(x)))
        return residual(x, self.norm, self.mixer)


class SequenceModel(nn.Module):
    """Sequences in, one prediction a sequence (or a step) out.

    Parameters
    ----------
    d_input
        Channels of real-valued inputs, or the number of tokens if `tokens` is set.
    n_outputs
        Classes, regression targets, or tokens.
    d_model
        Channels H inside.
    d_state
        States of each block, one number for each; its length is the number of blocks.
    head
        ``"classification"`` and ``"regression"`` pool over time (the mean over real steps);
        ``"next_token"`` predicts at every step.
    tokens
        Inputs are integers below `d_input`, embedded instead of projected.
    layer
        ``"lru"``, ``"mamba"``, ``"mamba2"`` or ``"linear_attention"``. `norm`, `r_min`, `r_max` and `realization`
        concern the LRU only.
    tied
        The head has the embedding's weights, and no bias, where both are over the same tokens.
    options
        Further arguments of the other layers.
    """

    def __init__(
        self,
        d_input: int,
        n_outputs: int,
        *,
        d_model: int,
        d_state: Sequence[int],
        head: Head = "classification",
        tokens: bool = False,
        dropout: float = 0.1,
        norm: Literal["batch", "layer"] = "batch",
        r_min: float = 0.9,
        r_max: float = 0.999,
        realization: Literal["real", "complex"] = "real",
        layer: str = "lru",
        tied: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if not d_state:
            raise ConfigError("d_state=() was given; needed: the states of at least one block.")
        self.head_kind: Head = head
        self.encoder = nn.Embedding(d_input, d_model) if tokens else nn.Linear(d_input, d_model)

        def block(n: int) -> nn.Module:
            if layer == "lru":
                lru = LRU(d_model, n, r_min=r_min, r_max=r_max, realization=realization)
                return Block(d_model, lru, dropout, norm)
            return MixerBlock(d_model, build_mixer(layer, d_model, n, options or {}), dropout)

        self.blocks = nn.ModuleList(block(n) for n in d_state)
        self.final_norm = nn.Identity() if layer == "lru" else RMSNorm(d_model, eps=_EPS)
        tied = tied and tokens and head == "next_token" and d_input == n_outputs
        self.head = nn.Linear(d_model, n_outputs, bias=not tied)
        if tied:  # logits of about one, and not of about sqrt(d_model)
            nn.init.normal_(self.encoder.weight, std=d_model**-0.5)
            self.head.weight = self.encoder.weight

    def forward(self, x: Tensor, lengths: Tensor | None = None, asked: Tensor | None = None) -> Tensor:
        """Predictions ``(batch, n_outputs)``, or ``(batch, L, n_outputs)`` at every step.

        Parameters
        ----------
        x
            ``(batch, L, d_input)`` real, or ``(batch, L)`` integer tokens.
        lengths
            Real steps of each padded sequence, int64 ``(batch,)``, at least 1.
        asked
            Steps whose predictions are wanted, bool ``(batch, L)``, of a model that predicts at every step: the head
            computes these only, ``(m, n_outputs)``.
        """
        mask = None
        if lengths is not None:
            if int(lengths.min()) < 1 or int(lengths.max()) > x.shape[1]:
                raise ShapeError(
                    f"lengths from {int(lengths.min())} to {int(lengths.max())}; needed: 1 to {x.shape[1]}."
                )
            mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        h = self.encoder(x)
        for block in self.blocks:
            h = block(h, mask)
        h = self.final_norm(h)
        if self.head_kind == "next_token":
            return self.head(h if asked is None else h[asked])
        return self.head(h.sum(1) / h.shape[1] if mask is None or lengths is None else _mean_over(h, mask, lengths))


def _mean_over(h: Tensor, mask: Tensor, lengths: Tensor) -> Tensor:
    return (h * mask[..., None]).sum(1) / lengths[:, None]
