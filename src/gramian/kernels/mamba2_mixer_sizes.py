"""What Mamba-2 as one operator is given, and what its forward pass leaves to the backward pass."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from gramian.kernels.causal_conv_native import TAPS
from gramian.kernels.memory import lines
from gramian.kernels.products import FEW, MANY
from gramian.kernels.ssd_compiled import distance, states_between_chunks
from gramian.kernels.stages import enough

__all__ = ["PLANS", "Columns", "Parameters", "Saved", "Sizes"]

PLANS = 128
"""Of a pass, that are kept, for as many lengths and batches."""


class Columns(NamedTuple):
    """Where things are in the rows of the projection in."""

    d_inner: int
    keys: int
    heads: int
    groups: int

    @property
    def mixed(self) -> int:
        """What the convolution mixes: x, B and C."""
        return self.d_inner + 2 * self.keys

    @property
    def all(self) -> int:
        """Of a row."""
        return self.d_inner + self.mixed + self.heads

    def parts(self, zxbcdt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z, xBC and dt, as views."""
        middle, end = self.d_inner + self.mixed, self.all
        return zxbcdt[..., : self.d_inner], zxbcdt[..., self.d_inner : middle], zxbcdt[..., middle:end]

    def driven(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x ``(batch, L, heads, P)``, B and C ``(batch, L, groups, N)``, as views."""
        batch, length, _ = xBC.shape
        keys, middle = (batch, length, self.groups, self.keys // self.groups), self.d_inner + self.keys
        x = xBC[..., : self.d_inner].view(batch, length, self.heads, self.d_inner // self.heads)
        return x, xBC[..., self.d_inner : middle].view(keys), xBC[..., middle:].view(keys)


class Parameters(NamedTuple):
    """As `gramian.kernels.mamba2_mixer` has them, in its order."""

    prenorm: Tensor | None
    in_weight: Tensor | None
    in_bias: Tensor | None
    conv_weight: Tensor
    conv_bias: Tensor | None
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    norm_weight: Tensor
    out_weight: Tensor | None
    out_bias: Tensor | None

    def given(self) -> list[Tensor]:
        """Those that there are, contiguous."""
        return [t.contiguous() for t in self if t is not None]


class Sizes(NamedTuple):
    """Of a call. `row` is the distance between rows of its input; `d_model`, and `d_out`, is 0 where there is no
    projection in, or out."""

    batch: int
    length: int
    row: int
    d_model: int
    d_inner: int
    keys: int
    width: int
    heads: int
    groups: int
    d_out: int
    prenorm: bool
    in_bias: bool
    conv_bias: bool
    out_bias: bool
    eps: float
    prenorm_eps: float
    T: int
    dtype: torch.dtype
    threads: int

    @classmethod
    def of(cls, u: Tensor, p: Parameters, groups: int, eps: float, prenorm_eps: float, T: int) -> Sizes:
        """For this input and these parameters."""
        batch, length, d_model = u.shape
        mixed, _, width = p.conv_weight.shape
        d_inner, heads = p.norm_weight.shape[0], p.A_log.shape[0]
        return cls(
            batch=batch,
            length=length,
            row=distance(u),
            d_model=0 if p.in_weight is None else d_model,
            d_inner=d_inner,
            keys=(mixed - d_inner) // 2,
            width=width,
            heads=heads,
            groups=groups,
            d_out=0 if p.out_weight is None else p.out_weight.shape[0],
            prenorm=p.prenorm is not None,
            in_bias=p.in_bias is not None,
            conv_bias=p.conv_bias is not None,
            out_bias=p.out_bias is not None,
            eps=eps,
            prenorm_eps=prenorm_eps,
            T=T,
            dtype=u.dtype,
            threads=torch.get_num_threads(),
        )

    @property
    def columns(self) -> Columns:
        """Of the projection in."""
        return Columns(self.d_inner, self.keys, self.heads, self.groups)

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return self.dtype.itemsize

    @property
    def block(self) -> int:
        """Rows of a product's tasks."""
        return FEW if enough(self.batch, self.threads) else MANY

    def steps(self, *shape: int) -> tuple[int, ...]:
        """The shape of something for each step."""
        return self.batch, self.length, *shape

    def recurrence(self) -> tuple[Tensor, Tensor]:
        """An example of its inputs, and of keys."""
        x, B, _ = self.columns.driven(torch.empty(self.steps(self.columns.mixed), dtype=self.dtype))
        return x, B

    def input(self) -> Tensor:
        """An example of one."""
        shape, row = self.steps(self.d_model or self.columns.all), self.row
        return torch.empty_strided(shape, (self.length * row, row, 1), dtype=self.dtype)

    def parameters(self) -> Parameters:
        """An example of them."""
        c, like = self.columns, torch.empty(0, dtype=self.dtype)
        into, out = (c.all, self.d_model), (self.d_out, self.d_inner)
        return Parameters(
            prenorm=like.new_empty(self.d_model) if self.prenorm else None,
            in_weight=like.new_empty(into) if self.d_model else None,
            in_bias=like.new_empty(c.all) if self.in_bias else None,
            conv_weight=like.new_empty(c.mixed, 1, self.width),
            conv_bias=like.new_empty(c.mixed) if self.conv_bias else None,
            dt_bias=like.new_empty(self.heads),
            A_log=like.new_empty(self.heads),
            D=like.new_empty(self.heads),
            norm_weight=like.new_empty(self.d_inner),
            out_weight=like.new_empty(out) if self.d_out else None,
            out_bias=like.new_empty(self.d_out) if self.out_bias else None,
        )


class Saved(NamedTuple):
    """For the backward pass, packed in one tensor: columns, and normalised values, where there are projections; the
    normalised input; coefficients of the convolution as kernels read them; outputs of the recurrence, and its states
    between chunks; step sizes, logs of decays, and the factors that normalise the values and the input. Those first
    whose rows are whole lines."""

    rows: Tensor
    normed: Tensor
    normed_input: Tensor
    conv: Tensor
    y: Tensor
    between: Tensor
    delta: Tensor
    log_decay: Tensor
    scales: Tensor
    input_scales: Tensor

    @staticmethod
    def shapes(s: Sizes) -> list[tuple[int, ...]]:
        """In their order."""
        values, none = s.steps(s.heads, s.d_inner // s.heads), (0,)
        return [
            s.steps(lines(s.columns.all, s.itemsize)) if s.d_model else none,
            s.steps(s.d_inner) if s.d_out else none,
            s.steps(s.d_model) if s.prenorm else none,
            (TAPS + 1, lines(s.columns.mixed, s.itemsize)),
            values,
            states_between_chunks(values, s.keys // s.groups, s.T),
            s.steps(s.heads),
            s.steps(s.heads),
            s.steps(s.groups),
            s.steps() if s.prenorm else none,
        ]

    @classmethod
    def numbers(cls, s: Sizes) -> int:
        """That the tensor has."""
        return sum(prod(shape) for shape in cls.shapes(s))
