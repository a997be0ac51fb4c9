"""The rival in JAX is the same model: otherwise its time would mean nothing."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gramian.lab.bench import jax_peers, ours
from gramian.lab.bench.settings import Shape
from gramian.lab.summary import training_step

pytest.importorskip("jax", reason="jax is not installed: pip install 'gramian[bench]'")

SHAPE = Shape(5, 63, 6, 9, blocks=2)


@pytest.fixture(scope="module")
def jax_model() -> Any:
    return jax_peers.jax_module("jax_model")


def test_logits_of_the_training_forward_are_ours(jax_model: Any) -> None:
    import jax

    model, (inputs, targets) = ours.model(SHAPE, dropout=0.0).train(), ours.batch(SHAPE)
    parameters, statistics = jax_peers.model_parameters(model)
    theirs, _ = jax_model.forward(parameters, statistics, inputs.numpy(), jax.random.key(0), 0.0, True)
    logits = model(inputs).detach()
    np.testing.assert_allclose(np.asarray(theirs), logits.numpy(), atol=1e-4)
    trainer = jax_model.Trainer(parameters, statistics, 0.0)
    loss = trainer.step(inputs.numpy(), targets.numpy())
    assert loss == pytest.approx(float(F.cross_entropy(logits, targets)), abs=1e-4)


def test_evaluation_with_running_statistics_is_ours(jax_model: Any) -> None:
    model, (inputs, _) = ours.model(SHAPE), ours.batch(SHAPE)
    model(inputs)  # moves the running statistics away from where they start
    model.eval()
    theirs = jax_model.evaluation(*jax_peers.model_parameters(model), inputs.numpy())()
    with torch.no_grad():
        np.testing.assert_allclose(np.asarray(theirs), model(inputs).numpy(), atol=1e-4)


@pytest.mark.parametrize("loop", [False, True])
def test_training_goes_the_same_way_step_by_step(jax_model: Any, loop: bool) -> None:
    model, (inputs, targets) = ours.model(SHAPE, dropout=0.0), ours.batch(SHAPE)
    trainer = jax_model.Trainer(*jax_peers.model_parameters(model), 0.0, lr=ours.SETTINGS.lr, loop=loop)
    step = training_step(ours.SETTINGS, model, inputs, targets)
    for _ in range(4):
        with torch.no_grad():  # in train mode, without leaving a trace in the running statistics
            norms = [
                (b.norm.norm, b.norm.norm.running_mean.clone(), b.norm.norm.running_var.clone()) for b in model.blocks
            ]
            loss = float(F.cross_entropy(model.train()(inputs), targets))
            for norm, mean, var in norms:
                norm.running_mean.copy_(mean)
                norm.running_var.copy_(var)
        assert trainer.step(inputs.numpy(), targets.numpy()) == pytest.approx(loss, abs=1e-4)
        step()
    for kept, block in zip(trainer.state[1], model.blocks, strict=True):
        np.testing.assert_allclose(kept["mean"], block.norm.norm.running_mean.numpy(), atol=1e-4)
        np.testing.assert_allclose(kept["var"], block.norm.norm.running_var.numpy(), atol=1e-4)


def test_layer_and_all_its_gradients_are_ours() -> None:
    y, (parameters, g_u) = jax_peers.layer(SHAPE)()  # type: ignore[misc]
    lru, (u, g) = ours.new_layer(SHAPE), ours.layer_data(SHAPE)
    leaf = u.requires_grad_()
    out = lru(leaf)
    out.backward(g)
    np.testing.assert_allclose(y, out.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(g_u, leaf.grad.numpy(), atol=1e-4)
    for name, parameter in lru.named_parameters():
        scale = float(parameter.grad.abs().max())
        np.testing.assert_allclose(parameters[name], parameter.grad.numpy(), atol=1e-4 * max(1.0, scale), err_msg=name)


@pytest.mark.parametrize("kind", ["associative, vmap", "associative, time-major", "loop, time-major"])
def test_every_scan_is_the_recurrence(kind: str) -> None:
    x, poles, _ = ours.scan_data(SHAPE)
    states = np.asarray(jax_peers.scan(kind, x, poles, None)())
    if kind.endswith("time-major"):
        states = states.swapaxes(0, 1)
    expected = list(accumulate(x.unbind(1), lambda state, x_t: poles * state + x_t))
    np.testing.assert_allclose(states, torch.stack(expected, 1).numpy(), atol=1e-4)


def test_dropout_drops_its_share_and_keeps_the_mean(jax_model: Any) -> None:
    import jax
    import jax.numpy as jnp

    kept = np.asarray(jax_model._dropout(jax.random.key(1), 0.1, jnp.ones((400, 250))))
    assert np.mean(kept == 0) == pytest.approx(0.1, abs=0.01)
    assert kept.mean() == pytest.approx(1, abs=0.01)


def test_model_without_torch_has_the_parameters_of_ours(jax_model: Any) -> None:
    import jax

    alone = jax_model.random_parameters(SHAPE.channels, SHAPE.states, SHAPE.blocks, ours.CLASSES)
    real = jax_peers.model_parameters(ours.model(SHAPE))
    assert jax.tree.map(np.shape, alone) == jax.tree.map(np.shape, real)
