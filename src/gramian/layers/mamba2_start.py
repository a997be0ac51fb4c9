"""Sizes that a Mamba-2 can have, and where its step sizes start."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gramian.errors import ShapeError

__all__ = ["check_sizes", "initial_step_bias"]


def initial_step_bias(heads: int, dt_min: float, dt_max: float) -> Tensor:
    """Step sizes log-uniform in ``[dt_min, dt_max]`` for a zero input, through the inverse of softplus."""
    dt = (torch.rand(heads) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min)).exp().clamp(min=1e-4)
    return dt + torch.log(-torch.expm1(-dt))


def check_sizes(
    d_model: int, d_state: int, d_conv: int, d_inner: int, head_dim: int, n_groups: int, projection: int | None
) -> None:
    """Refuse what cannot be built."""
    given = f"d_model={d_model}, d_state={d_state}, d_conv={d_conv}, head_dim={head_dim}, n_groups={n_groups}"
    if min(d_model, d_state, d_conv, d_inner, head_dim, n_groups) < 1:
        raise ShapeError(f"{given} were given; needed: at least 1 of each.")
    if d_inner % head_dim:
        raise ShapeError(
            f"head_dim={head_dim} was given, with expand * d_model = {d_inner} inner channels.",
            "Needed: whole heads.",
            f"head_dim={math.gcd(d_inner, head_dim)}",
        )
    if (d_inner // head_dim) % n_groups:
        raise ShapeError(
            f"n_groups={n_groups} was given, with {d_inner // head_dim} heads; needed: as many heads a group."
        )
    if projection is not None and not 1 <= projection <= d_state:
        raise ShapeError(
            f"projection={projection} was given; needed: from 1 to d_state={d_state}.",
            "It is the number of states that the recurrence has.",
            "projection=None for as many as B and C have channels",
        )
