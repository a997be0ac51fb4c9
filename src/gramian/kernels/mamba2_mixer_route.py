"""How a call of `gramian.kernels.mamba2_mixer` is computed, and whether what it is given fits.

Sizes and types decide, once for all calls with the same ones.
"""

from __future__ import annotations

from enum import Enum, auto
from functools import lru_cache, reduce
from typing import NamedTuple, TypeAlias

import torch

from gramian.errors import ShapeError
from gramian.kernels.causal_conv_native import TAPS
from gramian.kernels.products import LEAST, fits
from gramian.kernels.ssd import check_chunk, chunk_length

__all__ = ["Route", "Way", "route"]

_ROUTES = 256  # kept
_COMPILED = ({torch.float32}, {torch.float64})  # types of all tensors

_Shape: TypeAlias = tuple[int, ...]


class Way(Enum):
    """In one operator; with norm and sum of the residual block apart, or projections apart; or all parts apart."""

    WHOLE = auto()
    MIXER = auto()
    INNER = auto()
    PARTS = auto()


class Route(NamedTuple):
    """The way, the type that all tensors have on it if they do not have it yet, and steps a chunk."""

    way: Way
    wide: torch.dtype | None
    T: int


class _Shapes(NamedTuple):
    """Of what the call is given."""

    u: _Shape
    prenorm: _Shape | None
    in_weight: _Shape | None
    in_bias: _Shape | None
    conv_weight: _Shape
    conv_bias: _Shape | None
    dt_bias: _Shape
    A_log: _Shape
    D: _Shape
    norm_weight: _Shape
    out_weight: _Shape | None
    out_bias: _Shape | None


@lru_cache(_ROUTES)
def route(
    shapes: tuple[_Shape | None, ...],
    dtypes: tuple[torch.dtype | None, ...],
    device: str,
    autocast: bool,
    groups: int,
    chunk: int | None,
) -> Route:
    """For tensors of these shapes and types, None where they are not given.

    Raises
    ------
    ConfigError, ShapeError
        For a chunk of no steps, and for shapes that do not fit.
    """
    s, types = _Shapes(*shapes), {t for t in dtypes if t is not None}  # type: ignore[arg-type]
    _check_inner(s, groups)
    _check(s)
    check_chunk(chunk)
    (mixed, _, width), (d_inner,), length = s.conv_weight, s.norm_weight, s.u[1]
    compiles = device == "cpu" and width <= TAPS and mixed > d_inner and 0 not in s.u
    whole = compiles and types in _COMPILED and not autocast and length >= LEAST and _rows_fit(s, next(iter(types)))
    if s.prenorm is not None and not (whole and s.in_weight and s.out_weight and s.out_bias is None):
        way = Way.MIXER
    elif not whole and (s.in_weight or s.out_weight):
        way = Way.INNER
    else:
        way = Way.WHOLE if compiles else Way.PARTS
    wide = None if types in _COMPILED else reduce(torch.promote_types, types, torch.float32)
    return Route(way, wide, max(1, min(length, chunk or chunk_length((mixed - d_inner) // (2 * groups)))))


def _rows_fit(s: _Shapes, dtype: torch.dtype) -> bool:
    """Whether rows of weights, and of the output, are whole lines."""
    widths = (s.in_weight[1],) if s.in_weight else ()
    return all(fits(n, dtype.itemsize) for n in (*widths, *(s.out_weight or ())))


def _check_inner(s: _Shapes, groups: int) -> None:
    """What all other sizes follow from."""
    ranks = tuple(map(len, (s.u, s.conv_weight, s.A_log, s.norm_weight)))
    if ranks != (3, 3, 1, 1) or s.conv_weight[1] != 1 or groups < 1:
        raise ShapeError(
            f"u {tuple(s.u)}, conv_weight {tuple(s.conv_weight)}, A_log {tuple(s.A_log)}, "
            f"norm_weight {tuple(s.norm_weight)} and {groups} groups were given.",
            "Needed: u (batch, L, columns), conv_weight (d_inner + 2 groups N, 1, width), A_log (heads,), "
            "norm_weight (d_inner,).",
        )
    (d_inner,), (mixed, _, width), (heads,) = s.norm_weight, s.conv_weight, s.A_log
    whole = min(heads, d_inner, width) > 0 and heads % groups == 0 and d_inner % heads == 0
    if not whole or mixed < d_inner or (mixed - d_inner) % (2 * groups):
        raise ShapeError(
            f"{heads} heads, {groups} groups, norm_weight ({d_inner},) and conv_weight {tuple(s.conv_weight)} were "
            "given.",
            "Needed: whole heads, as many a group, norm_weight (d_inner,), "
            "conv_weight (d_inner + 2 groups N, 1, width).",
        )


def _check(s: _Shapes) -> None:
    """The others."""
    (d_inner,), (mixed, _, _), (heads,), d_model = s.norm_weight, s.conv_weight, s.A_log, s.u[2]
    columns = d_inner + mixed + heads
    d_out = s.out_weight[0] if s.out_weight else 0
    wanted = {
        "u": (s.u[2:], s.in_weight[1:] if s.in_weight else (columns,)),
        "prenorm": (s.prenorm, (d_model,)),
        "in_weight": (s.in_weight, (columns, d_model)),
        "in_bias": (s.in_bias, (columns,) if s.in_weight else ()),
        "conv_bias": (s.conv_bias, (mixed,)),
        "dt_bias": (s.dt_bias, (heads,)),
        "D": (s.D, (heads,)),
        "out_weight": (s.out_weight, (d_out if s.prenorm is None else d_model, d_inner)),
        "out_bias": (s.out_bias, (d_out,) if s.out_weight else ()),
    }
    for name, (given, sizes) in wanted.items():
        if given is not None and tuple(given) != tuple(sizes):
            raise ShapeError(
                f"{name} with sizes {tuple(given)} was given; needed: {tuple(sizes)}.",
                f"There are {d_inner} inner channels, {mixed} of the convolution, and {heads} heads.",
            )
