"""The sequence model of `gramian.lab.models` and its training step in JAX, with the same parameters.

encoder -> blocks (batch norm without affine part -> LRU -> exact GELU -> dropout -> GLU -> dropout -> + skip) -> mean
over time -> head; cross entropy; AdamW in its plain form. One jitted step whose parameters, running statistics and
moments are donated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gramian.lab.bench.jax_lru import Scan, lru, scan_by_loop, scan_by_vmap

__all__ = ["Trainer", "evaluation", "forward", "random_parameters"]

Array = Any
Tree = Any

_EPS, _MOMENTUM = 1e-5, 0.1  # of torch.nn.BatchNorm1d
_BETAS, _ADAM_EPS = (0.9, 0.999), 1e-8  # of torch.optim.AdamW


def random_parameters(channels: int, states: int, blocks: int, classes: int) -> tuple[Tree, Tree]:
    """Parameters and running statistics of a model of this shape, for a process without torch."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Tree:
        return rng.standard_normal(shape).astype(np.float32)

    def recurrence() -> Tree:
        poles = {"nu_log": normal(states) - 3, "theta_log": normal(states), "gamma_log": normal(states) - 1}
        maps = {name: normal(states, channels) for name in ("B_re", "B_im")}
        maps |= {name: normal(channels, states) / states for name in ("C_re", "C_im")}
        return {**poles, **maps, "D": normal(channels)}

    def dense(inputs: int, outputs: int) -> Tree:
        return {"w": normal(inputs, outputs) / inputs, "b": normal(outputs)}

    each = [{"lru": recurrence(), "glu": dense(channels, 2 * channels)} for _ in range(blocks)]
    statistics = [{"mean": np.zeros(channels, np.float32), "var": np.ones(channels, np.float32)} for _ in each]
    return {"encoder": dense(1, channels), "blocks": each, "head": dense(channels, classes)}, statistics


def _affine(p: Tree, x: Array) -> Array:
    return x @ p["w"] + p["b"]


def _dropout(key: Array, rate: float, x: Array) -> Array:
    if rate == 0:
        return x
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0.0)


def _normalized(stats: Tree, x: Array, train: bool) -> tuple[Array, Tree]:
    if not train:
        return (x - stats["mean"]) * jax.lax.rsqrt(stats["var"] + _EPS), stats
    count = x.shape[0] * x.shape[1]
    mean, var = x.mean((0, 1)), x.var((0, 1))
    kept = {
        "mean": (1 - _MOMENTUM) * stats["mean"] + _MOMENTUM * mean,
        "var": (1 - _MOMENTUM) * stats["var"] + _MOMENTUM * var * (count / max(1, count - 1)),
    }
    return (x - mean) * jax.lax.rsqrt(var + _EPS), kept


def forward(
    p: Tree, stats: Tree, x: Array, key: Array, rate: float, train: bool, scan: Scan = scan_by_vmap
) -> tuple[Array, Tree]:
    """Logits, and the running statistics after this batch."""
    h, after = _affine(p["encoder"], x), []
    for block, seen in zip(p["blocks"], stats, strict=True):
        key, first, second = jax.random.split(key, 3)
        y, kept = _normalized(seen, h, train)
        y = jax.nn.gelu(lru(block["lru"], y, scan), approximate=False)
        y = _dropout(first, rate if train else 0.0, y)
        value, gate = jnp.split(_affine(block["glu"], y), 2, axis=-1)
        h = h + _dropout(second, rate if train else 0.0, value * jax.nn.sigmoid(gate))
        after.append(kept)
    return _affine(p["head"], h.mean(1)), after


def _loss(p: Tree, stats: Tree, x: Array, y: Array, key: Array, rate: float, scan: Scan) -> tuple[Array, Tree]:
    logits, stats = forward(p, stats, x, key, rate, True, scan)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)
    return -chosen.mean(), jax.lax.stop_gradient(stats)


def _adamw(p: Array, g: Array, m: Array, v: Array, t: Array, lr: float, decay: float) -> tuple[Array, Array, Array]:
    m = _BETAS[0] * m + (1 - _BETAS[0]) * g
    v = _BETAS[1] * v + (1 - _BETAS[1]) * g * g
    step = (m / (1 - _BETAS[0] ** t)) / (jnp.sqrt(v / (1 - _BETAS[1] ** t)) + _ADAM_EPS)
    return p - lr * (step + decay * p), m, v


def _jitted_step(rate: float, lr: float, decay: float, scan: Scan) -> Callable[..., Any]:
    def step(state: Tree, key: Array, x: Array, y: Array) -> tuple[Tree, Array, Array]:
        parameters, stats, firsts, seconds, t = state
        key, used = jax.random.split(key)
        (loss, stats), grads = jax.value_and_grad(_loss, has_aux=True)(parameters, stats, x, y, used, rate, scan)
        t = t + 1
        leaves, shape = jax.tree.flatten(parameters)
        g, m, v = (jax.tree.leaves(tree) for tree in (grads, firsts, seconds))
        moved = [_adamw(*each, t, lr, decay) for each in zip(leaves, g, m, v, strict=True)]
        parameters, firsts, seconds = (jax.tree.unflatten(shape, part) for part in zip(*moved, strict=True))
        return (parameters, stats, firsts, seconds, t), key, loss

    compiled: Callable[..., Any] = jax.jit(step, donate_argnums=(0, 1))
    return compiled


class Trainer:
    """Parameters, statistics, moments and random key of a training run; `step` is jitted, its state donated.

    With `loop` the recurrence is a ``lax.scan`` over time instead of the associative scan of the literature.
    """

    def __init__(
        self, parameters: Tree, stats: Tree, rate: float, lr: float = 2e-3, decay: float = 0.0, *, loop: bool = False
    ) -> None:
        parameters, stats = jax.tree.map(jnp.array, (parameters, stats))
        moments = (jax.tree.map(jnp.zeros_like, parameters), jax.tree.map(jnp.zeros_like, parameters))
        self.state = (parameters, stats, *moments, jnp.float32(0))
        self.key = jax.random.key(0)
        self._step = _jitted_step(rate, lr, decay, scan_by_loop if loop else scan_by_vmap)

    def step(self, x: Array, y: Array) -> float:
        """One training step on a batch; the loss before it."""
        self.state, self.key, loss = self._step(self.state, self.key, x, y)
        jax.block_until_ready((self.state, loss))
        return float(loss)


def evaluation(parameters: Tree, stats: Tree, x: Array) -> Callable[[], Array]:
    """The forward pass as it is evaluated: running statistics, no dropout, nothing kept for gradients."""
    inputs, key = jax.tree.map(jnp.array, (parameters, stats, x)), jax.random.key(0)
    compiled = jax.jit(lambda p, stats, x: forward(p, stats, x, key, 0.0, train=False)[0])
    return lambda: jax.block_until_ready(compiled(*inputs))
