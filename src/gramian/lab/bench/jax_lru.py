"""The scan and the LRU in JAX, in the form of the literature: an associative scan over time.

As in NicolasZucchet/minimal-LRU: complex64 states, one scan over the elements ``(lambda, B u)`` for each sequence,
``vmap`` over the batch. Numpy arrays come in; torch is not imported, so that the memory of a process that runs JAX
alone can be measured. Imported only where jax is installed, by `gramian.lab.bench.jax_peers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Scan", "layer", "lru", "scan", "scan_by_loop", "scan_by_vmap"]

Array = Any  # jax.Array, where jax is installed
Numpy = Any
Scan = Callable[[Array, Array], Array]


def combine(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two steps of ``x -> a x + b``, one after the other."""
    return first[0] * second[0], second[0] * first[1] + second[1]


def scan_of_sequence(poles: Array, x: Array) -> Array:
    """States ``(L, N)`` of one sequence."""
    states: Array = jax.lax.associative_scan(combine, (jnp.broadcast_to(poles, x.shape), x))[1]
    return states


def scan_by_vmap(poles: Array, x: Array) -> Array:
    """States for inputs ``(batch, L, N)``."""
    return jax.vmap(scan_of_sequence, (None, 0))(poles, x)


def scan_time_major(poles: Array, x: Array) -> Array:
    """States for inputs ``(L, batch, N)``, the layout that JAX is fastest in."""
    elements = (jnp.broadcast_to(poles, (x.shape[0], 1, x.shape[2])), x)
    states: Array = jax.lax.associative_scan(combine, elements)[1]
    return states


def scan_in_a_loop(poles: Array, x: Array) -> Array:
    """States for inputs ``(L, batch, N)``, one step after the other."""

    def step(h: Array, x_t: Array) -> tuple[Array, Array]:
        h = poles * h + x_t
        return h, h

    states: Array = jax.lax.scan(step, jnp.zeros_like(x[0]), x)[1]
    return states


def scan_by_loop(poles: Array, x: Array) -> Array:
    """`scan_in_a_loop` for inputs ``(batch, L, N)``."""
    return scan_in_a_loop(poles, x.swapaxes(0, 1)).swapaxes(0, 1)


SCANS: Mapping[str, tuple[Scan, bool]] = {
    "associative, vmap": (scan_by_vmap, False),
    "associative, time-major": (scan_time_major, True),
    "loop, time-major": (scan_in_a_loop, True),
}
"""The scans, and whether time is their first axis."""


def scan(kind: str, x: Numpy, poles: Numpy, g: Numpy | None) -> Callable[[], object]:
    """A raw scan of ``(batch, L, N)``; with the gradient `g` of its output, its gradients for poles and input too."""
    function, time_major = SCANS[kind]

    def laid_out(values: Numpy) -> Array:
        return jnp.array(np.ascontiguousarray(values.swapaxes(0, 1)) if time_major else values)

    return _compiled(function, (jnp.array(poles), laid_out(x)), None if g is None else laid_out(g))


def lru(p: Mapping[str, Array], u: Array, scan: Scan = scan_by_vmap) -> Array:
    """Outputs ``(batch, L, H)``: ``Re(C x) + D u``."""
    poles = jnp.exp(-jnp.exp(p["nu_log"]) + 1j * jnp.exp(p["theta_log"]))
    B = (p["B_re"] + 1j * p["B_im"]) * jnp.exp(p["gamma_log"])[:, None]
    C = p["C_re"] + 1j * p["C_im"]
    states = scan(poles, u @ B.T)
    return (states @ C.T).real + p["D"] * u


def layer(parameters: Mapping[str, Numpy], u: Numpy, g: Numpy) -> Callable[[], object]:
    """The layer forward and backward: outputs, and gradients of all parameters and of the input."""
    return _compiled(lru, ({name: jnp.array(p) for name, p in parameters.items()}, jnp.array(u)), jnp.array(g))


def _compiled(function: Callable[..., Array], inputs: tuple[Any, ...], g: Array | None) -> Callable[[], object]:
    def both(inputs: tuple[Any, ...], g: Array) -> tuple[Array, tuple[Any, ...]]:
        y, backward = jax.vjp(function, *inputs)
        return y, backward(g)

    if g is None:
        forward = jax.jit(function)
        return lambda: jax.block_until_ready(forward(*inputs))
    compiled = jax.jit(both)
    return lambda: jax.block_until_ready(compiled(inputs, g))
